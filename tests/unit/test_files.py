"""Private files: written completely or not at all, readable by their owner only."""

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
def test_a_file_is_private_and_leaves_no_temporary_file(tmp_path: Path, durable: bool) -> None:
    write_private(tmp_path / "spec.json", "new", durable=durable)
    assert (tmp_path / "spec.json").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "spec.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_public_file_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    write_private(path, "old")
    with _files_of_at_most(2), pytest.raises(OSError, match="File too large"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_temporary_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.write_text("theirs")
    (tmp_path / f".spec.json.{os.getpid()}").symlink_to(other)
    write_private(tmp_path / "spec.json", "ours")
    assert (other.read_text(), (tmp_path / "spec.json").read_text()) == ("theirs", "ours")
    assert not (tmp_path / "spec.json").is_symlink()
