"""A verified file is linked into a directory, unless something could still write to it."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from tests.small_disk import small_disk

from enrollgate.worker.course import Delivered, Fetched, Item
from enrollgate.worker.destinations.directory import MANIFEST, Directory

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


def test_delivery_on_the_same_file_system_links_the_file(tmp_path: Path) -> None:
    file = tmp_path / "media.mp4"
    file.write_bytes(CONTENT)
    found, target, reported = deliver(tmp_path, file)
    assert target.samefile(file) and found.md5 == MD5 and reported == [len(CONTENT)]
    assert sorted(each.name for each in target.parent.iterdir()) == [target.name]


@pytest.mark.parametrize("left", ["target", "part"])
def test_delivery_after_a_kill_leaves_no_link_to_scratch(tmp_path: Path, left: str) -> None:
    file = tmp_path / "media.mp4"
    file.write_bytes(CONTENT)
    _, target, _ = deliver(tmp_path, file)
    # The worker was killed before it wrote the manifest: the file in scratch is still there.
    (tmp_path / "courses").joinpath(target.parent.parent.name, MANIFEST).unlink()
    if left == "part":
        target.rename(target.with_name(f"{target.name}.enrollgate-part"))
    found, target, _ = deliver(tmp_path, file)
    assert (target.read_bytes(), found.md5, file.read_bytes()) == (CONTENT, MD5, CONTENT)
    assert sorted(each.name for each in target.parent.iterdir()) == [target.name]


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
