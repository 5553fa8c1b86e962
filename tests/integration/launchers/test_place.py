"""What identifies the place of local runs, and which operator may start beside them."""

import errno
import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.launchers.harness import LocalLauncherHarness, start

from enrollgate.domain.run import RunPlace
from enrollgate.launchers import LauncherRefused
from enrollgate.launchers.local.place import (
    after_stop,
    create_place,
    find_place,
    live_runs,
    network_file_system,
    why_not_start,
)


def test_place_of_a_directory_stays_the_same_also_under_another_path(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    assert find_place(work).place_id == ""
    place = create_place(work)
    assert create_place(work) == find_place(work) == place and place.place_id
    work.rename(tmp_path / "moved")
    assert find_place(tmp_path / "moved").can_observe(place)


def test_copy_of_a_directory_is_another_place(tmp_path: Path) -> None:
    work, copy = tmp_path / "work", tmp_path / "copy"
    work.mkdir()
    place = create_place(work)
    shutil.copytree(work, copy)
    assert not find_place(copy).can_observe(place)
    assert not create_place(copy).can_observe(place)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"id": 5, "inode": 1}', b"\xff"])
def test_damaged_id_makes_another_place(tmp_path: Path, damage: bytes) -> None:
    place = create_place(tmp_path)
    (tmp_path / "work-dir-id.json").write_bytes(damage)
    assert not create_place(tmp_path).can_observe(place)
    assert create_place(tmp_path) == create_place(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_work_dir_without_file_locks_is_refused_with_a_remedy(
    harness: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(LauncherRefused, match="put the work directory on a local disk"):
        harness.launcher()


def test_work_dir_on_a_network_file_system_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert network_file_system(tmp_path) is None
    mounts = Path("/proc/self/mountinfo").read_text()
    read_text = Path.read_text
    shared = "".join(
        f"{line.partition(' - ')[0]} - nfs4 server:/work rw\n" for line in mounts.splitlines()
    )

    def read(path: Path, **options: str) -> str:
        return shared if path.name == "mountinfo" else read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", read)
    assert network_file_system(tmp_path) == "nfs4"


def test_live_run_in_another_directory_of_this_machine_stops_the_start(
    harness: LocalLauncherHarness, tmp_path: Path
) -> None:
    launcher = harness.launcher("time.sleep(600)")
    name = start(launcher)
    (tmp_path / "here").mkdir()
    here = create_place(tmp_path / "here")
    assert live_runs(launcher.place, [name, "enrollgate-2-1"]) == [name]
    problem = why_not_start(here, {launcher.place: [name]})
    assert problem is not None
    assert f"ENROLLGATE_WORK_DIR={harness.work_dir}" in problem and "live: 1" in problem
    assert launcher.count_live() == 1


def test_only_runs_that_may_be_ours_stop_the_start(tmp_path: Path) -> None:
    here = create_place(tmp_path)
    cluster = RunPlace("kubernetes", "courses")
    other_host = replace(here, place_id="other", host="other", machine_id="other", boot_id="other")
    assert why_not_start(here, {cluster: ["a-1-1"], other_host: ["a-2-1"]}) is None
    moved = replace(other_host, place_id=here.place_id)
    gone = replace(here, place_id="other", work_dir=str(tmp_path / "gone"))
    for place, words in ((moved, "claimed by host other"), (gone, "cannot be read")):
        problem = why_not_start(here, {place: ["a-3-1"]})
        assert problem is not None and words in problem
        assert f"enrollgate mark-lost {place.place_id}" in problem


@pytest.mark.parametrize(
    ("cgroups", "words"),
    [
        ("0::/user.slice/user-0.slice/session-1.scope\n", "live: 2; they continue"),
        (
            "0::/system.slice/enrollgate.service\n",
            "unless systemd kills them with enrollgate.service",
        ),
        (
            "9:name=systemd:/system.slice/pm2-root.service\n8:pids:/\n",
            "unless systemd kills them with pm2-root.service",
        ),
    ],
)
def test_last_words_say_who_may_kill_the_runs(tmp_path: Path, cgroups: str, words: str) -> None:
    (tmp_path / "cgroup").write_text(cgroups)
    assert words in after_stop(2, tmp_path / "cgroup")
    assert after_stop(0, tmp_path / "cgroup") == "no run is live"
