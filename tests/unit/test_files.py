"""Small private files: whole or not at all, for their owner alone."""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enrollgate.common.files import write_private


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_for_its_owner_alone_and_leaves_no_draft(tmp_path: Path, durable: bool) -> None:
    write_private(tmp_path / "spec.json", "new", durable=durable)
    assert (tmp_path / "spec.json").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "spec.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_an_old_file_for_all_to_read_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_what_cannot_be_written_whole_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    write_private(path, "old")
    with _files_of_at_most(2), pytest.raises(OSError, match="File too large"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_draft_is_not_written_through_a_link_that_lies_there(tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.write_text("theirs")
    (tmp_path / f".spec.json.{os.getpid()}").symlink_to(other)
    write_private(tmp_path / "spec.json", "ours")
    assert (other.read_text(), (tmp_path / "spec.json").read_text()) == ("theirs", "ours")
    assert not (tmp_path / "spec.json").is_symlink()
