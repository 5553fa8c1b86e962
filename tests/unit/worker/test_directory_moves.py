"""A verified file is moved into a directory, unless something else could still write to it."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from tests.small_disk import small_disk

from enrollgate.worker.course import Delivered, Fetched, Item
from enrollgate.worker.destinations.directory import Directory

ITEM = Item("i1", 1, "Lecture", "Section", 1, "https://courses.example.com/1")
CONTENT = b"a lecture"
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def deliver(root: Path, file: Path, md5: str = MD5) -> tuple[Delivered, Path, list[int]]:
    """Deliver the file. Returns its path at the destination and the bytes that were reported."""
    reported = list[int]()
    destination = Directory(root / "courses", 7, "key", threading.Event())
    destination.open("Course")
    found = destination.deliver(ITEM, Fetched(file, md5=md5), reported.append)
    destination.finish()
    (course,) = (root / "courses").iterdir()
    return found, course / found.path, reported


def test_delivery_on_the_same_file_system_moves_the_file(tmp_path: Path) -> None:
    file = tmp_path / "media.mp4"
    file.write_bytes(CONTENT)
    number = file.stat().st_ino
    found, target, reported = deliver(tmp_path, file)
    assert (target.stat().st_ino, target.read_bytes(), found.md5) == (number, CONTENT, MD5)
    assert not file.exists() and reported == [len(CONTENT)]


@pytest.mark.parametrize("kind", ["linked", "symlink", "unhashed"])
def test_delivery_of_a_file_that_others_may_change_copies_it(tmp_path: Path, kind: str) -> None:
    other, file = tmp_path / "other.mp4", tmp_path / "media.mp4"
    other.write_bytes(CONTENT)
    if kind == "linked":
        os.link(other, file)
    else:
        file.symlink_to(other)
    found, target, _ = deliver(tmp_path, file, "" if kind == "unhashed" else MD5)
    other.write_bytes(b"changed by a download command")
    assert (target.read_bytes(), found.md5) == (CONTENT, MD5)
    assert target.is_file() and not target.is_symlink() and file.exists()


def test_delivery_to_another_file_system_copies_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1_000) as disk:
        file = disk / "media.mp4"
        file.write_bytes(CONTENT)
        found, target, reported = deliver(tmp_path, file)
        assert (target.read_bytes(), found.md5) == (CONTENT, MD5)
        assert file.exists() and reported == [len(CONTENT)]
