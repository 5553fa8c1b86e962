"""Drive in hard cases: roles, lagging searches, proxies, setbacks, timeouts, stops."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator, Fault, Store
from tests.drive_emulator.store import FOLDER, Refused
from tests.faulty_site import Fault as SiteFault
from tests.faulty_site import FaultySite, Lecture
from tests.integration.drive.bench import CHUNK, KIB, MIB, Bench, build_item, ignore_bytes
from tests.media import lecture

from enrollgate.domain.check import Check
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.course import Fetched
from enrollgate.worker.destinations.drive.client import ChunkReader
from enrollgate.worker.destinations.drive.probe import check_drive
from enrollgate.worker.work import work


def on_shared_drive(tmp_path: Path, role: str = "fileOrganizer") -> Bench:
    return Bench(DriveEmulator(Store(shared_drive=True, role=role)), tmp_path)


def doctor(bench: Bench) -> Check:
    settings = WorkerSettings(drive_endpoint=bench.emulator.url, drive_credentials=bench.key_file)
    few_attempts = bench.retry_policy().with_few_attempts()
    return check_drive(settings, bench.emulator.store.root, few_attempts)


# roles


def test_content_manager_may_trash_but_not_delete() -> None:
    store = Store(shared_drive=True)
    file = store.insert({"id": "x", "name": "x"}, checked=False)
    with pytest.raises(Refused, match="insufficientFilePermissions"):
        store.delete(file["id"])
    assert store.update(file["id"], {"trashed": True})["trashed"]


def test_doctor_accepts_content_manager_of_a_shared_drive(tmp_path: Path) -> None:
    bench = on_shared_drive(tmp_path)
    with bench.emulator:
        check = doctor(bench)
    assert check.severity == "ok", check
    assert bench.emulator.store.media() == []


def test_doctor_reports_role_that_may_write_but_not_trash(
    tmp_path: Path,
) -> None:
    bench = on_shared_drive(tmp_path, "writer")
    with bench.emulator:
        check = doctor(bench)
    assert check.severity == "failed"
    assert (
        check.detail
        == "the account may not write to the folder (HTTP 403 insufficientFilePermissions)"
    )
    assert (
        check.remedy
        == "Share the folder with the account as editor (on a shared drive: as content manager)."
    )


def test_doctor_shows_message_and_remedy_of_bad_credentials(bench: Bench) -> None:
    bench.key_file.unlink()
    check = doctor(bench)
    assert check.detail == (
        f"ENROLLGATE_DRIVE_CREDENTIALS={bench.key_file}: No such file or directory"
    )
    assert check.remedy == "Correct the path, or let the worker read the file."


def test_content_manager_sends_a_corrupt_upload_again(tmp_path: Path) -> None:
    bench = on_shared_drive(tmp_path)
    with bench.emulator:
        drive = bench.open_drive()
        bench.emulator.faults.script("chunk", Fault("corrupt"))
        bench.send(drive, size=1000)
        bench.only_file()
        bench.emulator.faults.script("chunk", *[Fault("corrupt")] * 3)
        with pytest.raises(Failure, match="CorruptUpload"):
            bench.send(drive, size=1000, number=2)
        bench.only_file()


# files that are left behind


def test_verified_delivery_succeeds_if_old_file_cannot_be_removed(
    bench: Bench,
) -> None:
    bench.send(bench.open_drive(), size=1000)
    bench.only_file()["md5Checksum"] = "f" * 32
    again = bench.open_drive()
    bench.emulator.faults.script("update", *[Fault(status=503)] * 3)
    bench.send(again, size=1000)
    assert len(bench.emulator.store.media()) == 2
    third = bench.open_drive()
    assert third.find(build_item(1)) is not None
    assert bench.only_file()["md5Checksum"] != "f" * 32, "the next attempt removes the old file"


def test_upload_whose_file_was_deleted_starts_again(bench: Bench) -> None:
    bench.emulator.faults.script("chunk", Fault("lost"))
    bench.break_off(1000)
    gone = bench.only_file()["id"]
    bench.emulator.store.delete(str(gone))
    for upload in bench.emulator.store.uploads.values():
        upload.expired = True
    bench.send(bench.open_drive(), size=1000)
    assert bench.only_file()["id"] != gone


def test_existing_section_does_not_wait_for_one_being_created(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = bench.open_drive()
    bench.deliver(drive, 1, "Old")
    held, asked = threading.Event(), threading.Event()
    insert = bench.emulator.store.insert

    def slow(body: dict[str, Any], **options: Any) -> dict[str, Any]:
        if body.get("mimeType") == FOLDER:
            asked.set()
            held.wait(60)
        return insert(body, **options)

    monkeypatch.setattr(bench.emulator.store, "insert", slow)
    making = threading.Thread(target=lambda: bench.deliver(drive, 2, "New"))
    making.start()
    assert asked.wait(60)
    bench.deliver(drive, 3, "Old")  # must not wait for `held`
    held.set()
    making.join()
    assert len(bench.emulator.store.media()) == 3


# lagging searches


def test_two_attempts_with_empty_searches_leave_one_of_each(
    tmp_path: Path,
) -> None:
    lectures = [Lecture(f"L{n}", lecture(3000, n), "Part") for n in range(3)]
    with DriveEmulator(Store(lag=10**9)) as emulator, FaultySite(lectures) as site:
        bench = Bench(emulator, tmp_path)
        order = bench.order(site, drive_chunk_size=CHUNK, course_index=False)
        site.faults["/2.mp4"] = SiteFault(status=503)
        first = work(order, stop=threading.Event())
        assert (first.reason, first.items_delivered) == (Reason.SITE_ERROR, 2)
        site.faults.clear()
        second = work(order, stop=threading.Event())
        assert (second.reason, second.items_delivered, second.items_skipped) == (None, 1, 2), second
        assert len(emulator.store.media()) == 3
        folders = [file for file in emulator.store.files.values() if file["mimeType"] == FOLDER]
        assert len(folders) == 2, "the configured folder and the course's"


def test_section_is_found_again_without_searches(tmp_path: Path) -> None:
    with DriveEmulator(Store(lag=10**9)) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.deliver(bench.open_drive(), 1, "Part")
        bench.deliver(bench.open_drive(), 2, "Part")
        first, second = emulator.store.media()
        assert first["parents"] == second["parents"]


def test_files_in_two_folders_are_merged_into_the_older_one(tmp_path: Path) -> None:
    """Each pod has its own scratch, and the second pod's search does not show the first folder."""
    with DriveEmulator() as emulator:
        first, second, third = (
            Bench(emulator, tmp_path / name) for name in ("first", "second", "third")
        )
        old = first.open_drive()
        first.deliver(old, 1, "Part")
        emulator.store.lag = 10**9
        new = second.open_drive()
        for number, section in ((1, "Part"), (2, "Part"), (3, "")):
            second.deliver(new, number, section)
        assert new.location != old.location
        emulator.store.lag = 0
        last = third.open_drive()
        assert last.location == old.location
        assert len(emulator.store.media()) == 3, "the duplicate is in the trash"
        assert all(
            last.find(build_item(n, section)) for n, section in ((1, "Part"), (2, "Part"), (3, ""))
        )
        places = {str(file["name"]): file["parents"] for file in emulator.store.media()}
        assert places["01 - Lecture 1.mp4"] == places["02 - Lecture 2.mp4"]
        assert places["03 - Lecture 3.mp4"] == [old.location[0]]
        assert emulator.store.bytes == 40, "nothing is sent again"


def test_foreign_files_are_never_touched(bench: Bench) -> None:
    bench.send(bench.open_drive(), size=1000)
    ours = bench.only_file()
    foreign = {
        **ours,
        "id": "foreign0001",
        "appProperties": {**ours["appProperties"], "enrollgateTask": "8"},
    }
    bench.emulator.store.insert(foreign, checked=False)
    bench.emulator.store.insert(
        {"id": "plain00001", "name": "notes.txt", "parents": ours["parents"]}, checked=False
    )
    bench.open_drive()
    assert len(bench.emulator.store.media()) == 3


# proxies


@pytest.mark.parametrize(
    "operation",
    ["token", "get", "list", "create", "generateIds", "session", "chunk", "probe", "update"],
)
def test_one_proxy_page_instead_of_an_answer_is_retried(bench: Bench, operation: str) -> None:
    bench.emulator.faults.script(operation, Fault("page"))
    if operation == "probe":
        bench.emulator.faults.script("chunk", Fault(status=503))
    if operation == "update":
        bench.emulator.faults.script("chunk", Fault("corrupt"))
    bench.send(bench.open_drive(), size=1000)
    bench.only_file()
    assert f"{operation} page " in bench.emulator.faults.happened


@pytest.mark.parametrize(
    "operation", ["token", "get", "list", "create", "generateIds", "session", "chunk"]
)
def test_proxy_that_answers_everything_ends_as_unavailable(bench: Bench, operation: str) -> None:
    bench.emulator.faults.script(operation, *[Fault("page")] * 50)
    bench.emulator.faults.script("probe", *[Fault("page")] * 50)
    with pytest.raises(Failure) as caught:
        bench.send(bench.open_drive())
    assert caught.value.reason is Reason.DESTINATION_UNAVAILABLE
    assert caught.value.message == "Google Drive's answers end early or cannot be read"
    assert caught.value.remedy == (
        "Check which proxy stands between the worker and Google, then try again later."
    )


def test_run_behind_a_proxy_reports_it(bench: Bench, without_pauses: None) -> None:
    bench.emulator.faults.script("list", *[Fault("page")] * 50)
    with FaultySite([Lecture("L", b"x")]) as site:
        report = work(bench.order(site), stop=threading.Event())
    assert report.reason is Reason.DESTINATION_UNAVAILABLE and "proxy" in report.remedy


def test_doctor_behind_a_proxy_reports_it(bench: Bench) -> None:
    bench.emulator.faults.script("generateIds", *[Fault("page")] * 3)
    check = doctor(bench)
    assert (
        check.severity == "failed"
        and check.detail == "Google Drive's answers end early or cannot be read"
    ), check


# setbacks


def test_upload_dropped_in_the_middle_is_sent_again(bench: Bench) -> None:
    drive = bench.open_drive()
    chunks = 0

    def once_in_the_middle() -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 25:
            bench.emulator.faults.script("chunk", Fault("dropped"))

    bench.emulator.on_chunk = once_in_the_middle
    bench.send(drive, size=40 * CHUNK)
    bench.only_file()
    assert bench.emulator.ranges.count(None) == 1 and len(bench.pauses.seconds) == 1


def test_upload_dropped_repeatedly_fails(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.on_chunk = lambda: bench.emulator.faults.script("chunk", Fault("dropped"))
    with pytest.raises(Failure, match="DestinationUnavailable: Google Drive takes no more bytes"):
        bench.send(drive, size=4 * CHUNK)
    assert len(bench.emulator.ranges) < 20


# timeouts


def test_slow_chunk_does_not_time_out(tmp_path: Path) -> None:
    with DriveEmulator(rate=1_500_000) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.socket_timeout, bench.chunk = 1.5, 8 * MIB
        bench.send(bench.open_drive(), size=8 * MIB)
        assert [
            operation for operation, _ in emulator.requests if operation in ("chunk", "probe")
        ] == ["chunk"]


@pytest.mark.parametrize("operation", ["list", "session", "chunk", "probe"])
def test_stalled_connection_is_given_up(tmp_path: Path, operation: str) -> None:
    with DriveEmulator() as emulator:
        bench = Bench(emulator, tmp_path)
        bench.socket_timeout, bench.chunk = 0.5, 8 * MIB
        emulator.faults.script(operation, Fault("stall"))
        if operation == "probe":
            emulator.faults.script("chunk", Fault(status=503))
        bench.send(bench.open_drive(), size=20 * MIB)
        bench.only_file()
        assert f"{operation} stall " in emulator.faults.happened
        if operation == "chunk":
            assert f"bytes=0-{4 * MIB - 1}" in emulator.ranges, (
                "what Drive has of it is not sent again"
            )


# what is on disk, and when


def test_session_is_on_disk_before_the_first_byte_is_sent(bench: Bench) -> None:
    drive = bench.open_drive()
    kept: list[str | None] = []

    def look(_size: int) -> None:
        kept.extend(
            json.loads(path.read_text())["uri"]
            for path in (bench.folder / "scratch" / "drive").glob("*.json")
        )

    bench.emulator.on_bytes = look
    bench.chunk = 8 * MIB
    bench.send(drive, size=3 * MIB)
    first_of_media = next(index for index, uri in enumerate(kept) if uri)
    assert all(kept[first_of_media:]) and first_of_media <= 1, (
        "only the request for the session comes before"
    )


def test_stop_ends_a_chunk_in_the_middle_and_keeps_what_arrived(
    bench: Bench,
) -> None:
    bench.chunk = 8 * MIB
    drive = bench.open_drive()
    file = bench.file(8 * MIB)

    def stop(moved: int) -> None:
        if moved > 5 * MIB:
            bench.stop.set()

    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(build_item(1), Fetched(file), stop)
    bench.stop.clear()
    reported = bench.send(bench.open_drive(), size=8 * MIB)
    assert reported[-1] <= 4 * MIB


def test_stop_ends_the_computation_of_the_md5(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []

    class Md5:
        def update(self, block: bytes) -> None:
            blocks.append(len(block))
            bench.stop.set()

    drive = bench.open_drive()
    monkeypatch.setattr("enrollgate.common.files.hashlib.md5", lambda **_options: Md5())
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(build_item(1), Fetched(bench.file(5 * MIB)), ignore_bytes)
    assert len(blocks) == 1
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(build_item(1), Fetched(bench.file(5 * MIB)), ignore_bytes)
    assert len(blocks) == 1, "after the stop nothing is read"


def test_empty_list_of_ids_is_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.emulator.store, "new_ids", lambda _count: [])
    with pytest.raises(Failure, match="DestinationUnavailable"):
        bench.open_drive()


def test_transport_that_would_send_a_chunk_twice_is_stopped(bench: Bench) -> None:
    """httplib2 repeats a request on a closed connection, but the body is already read."""
    path = bench.file(100 * KIB)
    with path.open("rb") as stream:
        chunk = ChunkReader(stream, 10, 50, lambda _size: None)
        assert (
            chunk.read(40) == path.read_bytes()[10:50]
            and chunk.read(40) == path.read_bytes()[50:60]
        )
        assert chunk.read(40) == b""
        with pytest.raises(ConnectionResetError):
            chunk.read(40)
        chunk.seek(0)
        assert len(chunk.read(100)) == 50
