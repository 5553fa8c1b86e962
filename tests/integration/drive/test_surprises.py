"""Where Drive is not as one would wish: roles, searches that lag, proxies, setbacks, socket_timeout. The emulator does what Drive does."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator, Fault, Store
from tests.drive_emulator.store import FOLDER, Refused
from tests.faulty_site import Fault as SiteFault
from tests.faulty_site import FaultySite, Lecture, content
from tests.integration.drive.test_drive import CHUNK, KIB, MIB, Bench, bench, item  # noqa: F401
from tests.orders import order_for

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker import work
from enrollgate.worker.destinations.drive import uploads
from enrollgate.worker.destinations.drive.client import ChunkReader
from enrollgate.worker.destinations.drive.probe import check_drive
from enrollgate.worker.destinations.drive.retry import RetryPolicy


def on_shared_drive(tmp_path: Path, role: str = "fileOrganizer") -> Bench:
    return Bench(DriveEmulator(Store(shared_drive=True, role=role)), tmp_path)


def doctor(bench: Bench, root: str | None = None) -> Any:
    return check_drive(
        WorkerSettings(drive_endpoint=bench.emulator.url, drive_credentials=bench.key_file),
        root or bench.emulator.store.root,
    )


# roles


def test_a_content_manager_may_bin_but_not_delete() -> None:
    store = Store(shared_drive=True)
    file = store.insert({"id": "x", "name": "x"}, ours=True)
    with pytest.raises(Refused, match="insufficientFilePermissions"):
        store.delete(file["id"])
    assert store.update(file["id"], {"trashed": True})["trashed"]


def test_the_doctor_is_content_with_a_content_manager_of_a_shared_drive(tmp_path: Path) -> None:
    bench = on_shared_drive(tmp_path)
    with bench.emulator:
        check = doctor(bench)
    assert check.severity == "ok", check
    assert bench.emulator.store.media() == []


def test_the_doctor_finds_who_may_write_but_not_remove_and_tells_the_whole_remedy(
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
        == "share the folder with the account as editor (on a shared drive: as content manager)"
    )


def test_a_message_with_colons_is_not_cut_by_the_doctor(bench: Bench) -> None:
    bench.key_file.unlink()
    check = doctor(bench)
    assert check.detail.startswith("ENROLLGATE_DRIVE_CREDENTIALS=") and check.detail.endswith(
        "let the worker read the file"
    )
    assert check.remedy == "Mend the setting that the message names."


def test_a_corrupt_upload_is_sent_again_by_a_content_manager(tmp_path: Path) -> None:
    bench = on_shared_drive(tmp_path)
    with bench.emulator:
        drive = bench.opened()
        bench.emulator.faults.script("chunk", Fault("corrupt"))
        bench.send(drive, size=1000)
        bench.only_file()
        bench.emulator.faults.script("chunk", *[Fault("corrupt")] * 3)
        with pytest.raises(Failure, match="CorruptUpload"):
            bench.send(drive, size=1000, number=2)
        bench.only_file()


# what stays behind


def test_a_delivery_that_is_verified_stands_although_what_was_there_cannot_be_removed(
    bench: Bench,
) -> None:
    bench.send(bench.opened(), size=1000)
    bench.only_file()["md5Checksum"] = "f" * 32
    again = bench.opened()
    bench.emulator.faults.script("update", *[Fault(status=503)] * 3)
    bench.send(again, size=1000)
    assert len(bench.emulator.store.media()) == 2
    third = bench.opened()
    assert third.find(item(1)) is not None
    assert bench.only_file()["md5Checksum"] != "f" * 32, "the next try has tidied up"


def test_an_upload_whose_file_was_deleted_for_good_is_begun_anew(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.faults.script("chunk", Fault("lost"))
    bench.emulator.on_chunk = bench.stop.set
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), bench.file(1000), lambda _n: None)
    bench.emulator.on_chunk = lambda: None
    bench.stop.clear()
    gone = bench.only_file()["id"]
    bench.emulator.store.delete(str(gone))
    for upload in bench.emulator.store.uploads.values():
        upload.gone = True
    bench.send(bench.opened(), size=1000)
    assert bench.only_file()["id"] != gone


def test_a_section_that_is_there_waits_for_no_other_one_to_be_made(bench: Bench) -> None:
    drive = bench.opened()
    drive.deliver(item(1, "Old"), bench.file(10, 1), lambda _n: None)
    held, asked = threading.Event(), threading.Event()
    insert = bench.emulator.store.insert

    def slow(body: dict[str, Any], **options: Any) -> dict[str, Any]:
        if body.get("mimeType") == FOLDER:
            asked.set()
            held.wait(60)
        return insert(body, **options)

    bench.emulator.store.insert = slow  # type: ignore[method-assign]
    making = threading.Thread(
        target=lambda: drive.deliver(item(2, "New"), bench.file(10, 2), lambda _n: None)
    )
    making.start()
    assert asked.wait(60)
    drive.deliver(item(3, "Old"), bench.file(10, 3), lambda _n: None)  # would wait for ever
    held.set()
    making.join()
    assert len(bench.emulator.store.media()) == 3


# searches that lag


def test_two_tries_under_a_search_that_shows_nothing_leave_one_folder_and_each_file_once(
    tmp_path: Path,
) -> None:
    lectures = [Lecture(f"L{n}", content(1000, n), "Part") for n in range(3)]
    with DriveEmulator(Store(lag=10**9)) as emulator, FaultySite(lectures) as site:
        bench = Bench(emulator, tmp_path)
        order = order_for(
            site,
            tmp_path,
            destination=f"drive:{emulator.store.root}",
            drive_endpoint=emulator.url,
            drive_credentials=bench.key_file,
            drive_chunk_size=CHUNK,
        )
        site.faults["/2.mp4"] = SiteFault(status=503)
        first = work(order, stop=threading.Event())
        assert (first.reason, first.items_delivered) == (Reason.SITE_ERROR, 2)
        site.faults.clear()
        second = work(order, stop=threading.Event())
        assert (second.reason, second.items_delivered, second.items_skipped) == (None, 1, 2), second
        assert len(emulator.store.media()) == 3
        folders = [file for file in emulator.store.files.values() if file["mimeType"] == FOLDER]
        assert len(folders) == 2, "the given one, and the course's"


def test_a_section_is_found_again_although_no_search_shows_it(tmp_path: Path) -> None:
    with DriveEmulator(Store(lag=10**9)) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.opened().deliver(item(1, "Part"), bench.file(10, 1), lambda _n: None)
        bench.opened().deliver(item(2, "Part"), bench.file(10, 2), lambda _n: None)
        first, second = emulator.store.media()
        assert first["parents"] == second["parents"]


def test_what_two_pods_left_in_two_folders_comes_together_in_the_older_one(tmp_path: Path) -> None:
    """Each pod has a scratch of its own; the second one's search did not show what the first had made."""
    with DriveEmulator() as emulator:
        first, second, third = (
            Bench(emulator, _made(tmp_path / name)) for name in ("first", "second", "third")
        )
        old = first.opened()
        old.deliver(item(1, "Part"), first.file(10, 1), lambda _n: None)
        emulator.store.lag = 10**9
        new = second.opened()
        for number, section in ((1, "Part"), (2, "Part"), (3, "")):
            new.deliver(item(number, section), second.file(10, number), lambda _n: None)
        assert new.location != old.location
        emulator.store.lag = 0
        last = third.opened()
        assert last.location == old.location
        assert len(emulator.store.media()) == 3, "what was there twice is there once"
        assert all(
            last.find(item(n, section)) for n, section in ((1, "Part"), (2, "Part"), (3, ""))
        )
        places = {str(file["name"]): file["parents"] for file in emulator.store.media()}
        assert places["01 - Lecture 1.mp4"] == places["02 - Lecture 2.mp4"]
        assert places["03 - Lecture 3.mp4"] == [old.location[0]]
        assert emulator.store.bytes == 40, "nothing was sent again for that"


def test_a_file_that_is_not_ours_is_never_touched(bench: Bench) -> None:
    bench.send(bench.opened(), size=1000)
    ours = bench.only_file()
    foreign = {
        **ours,
        "id": "foreign0001",
        "appProperties": {**ours["appProperties"], "enrollgateTask": "8"},
    }  # type: ignore[dict-item]
    bench.emulator.store.insert(foreign, ours=True)
    bench.emulator.store.insert(
        {"id": "plain00001", "name": "notes.txt", "parents": ours["parents"]}, ours=True
    )
    bench.opened()
    assert len(bench.emulator.store.media()) == 3


# proxies


@pytest.mark.parametrize(
    "operation",
    ["token", "get", "list", "create", "generateIds", "session", "chunk", "probe", "update"],
)
def test_a_proxys_page_in_place_of_an_answer_is_asked_again(bench: Bench, operation: str) -> None:
    bench.emulator.faults.script(operation, Fault("page"))
    if operation == "probe":
        bench.emulator.faults.script("chunk", Fault(status=503))
    if operation == "update":
        bench.emulator.faults.script("chunk", Fault("corrupt"))
    bench.send(bench.opened(), size=1000)
    bench.only_file()
    assert f"{operation} page " in bench.emulator.faults.happened


@pytest.mark.parametrize(
    "operation", ["token", "get", "list", "create", "generateIds", "session", "chunk"]
)
def test_a_proxy_that_answers_everything_ends_as_unavailable(bench: Bench, operation: str) -> None:
    bench.emulator.faults.script(operation, *[Fault("page")] * 50)
    bench.emulator.faults.script("probe", *[Fault("page")] * 50)
    with pytest.raises(Failure) as caught:
        bench.send(bench.opened())
    assert caught.value.reason is Reason.DESTINATION_UNAVAILABLE
    assert caught.value.message == (
        "Google Drive's answers end early or cannot be read: see what proxy stands between the worker and Google; try again later"
    )


def test_a_run_behind_such_a_proxy_says_so_and_does_not_crash(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pauses = lambda random: RetryPolicy(random, lambda _seconds, _stop: None)
    monkeypatch.setattr(
        "enrollgate.worker.destinations.drive.destination.RetryPolicy", without_pauses
    )
    bench.emulator.faults.script("list", *[Fault("page")] * 50)
    with FaultySite([Lecture("L", b"x")]) as site:
        order = order_for(
            site,
            bench.folder,
            destination=f"drive:{bench.emulator.store.root}",
            drive_endpoint=bench.emulator.url,
            drive_credentials=bench.key_file,
        )
        report = work(order, stop=threading.Event())
    assert report.reason is Reason.DESTINATION_UNAVAILABLE and "proxy" in report.message


def test_the_doctor_says_so_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "enrollgate.worker.destinations.drive.retry.wait", lambda _seconds, _stop: None
    )
    bench.emulator.faults.script("generateIds", *[Fault("page")] * 3)
    check = doctor(bench)
    assert (
        check.severity == "failed"
        and check.detail == "Google Drive's answers end early or cannot be read"
    ), check


# setbacks


def test_an_upload_that_drive_forgets_in_the_middle_is_sent_again(bench: Bench) -> None:
    drive = bench.opened()
    chunks = 0

    def once_in_the_middle() -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 25:
            bench.emulator.faults.script("chunk", Fault("forgotten"))

    bench.emulator.on_chunk = once_in_the_middle
    bench.send(drive, size=40 * CHUNK)
    bench.only_file()
    assert bench.emulator.ranges.count(None) == 1 and len(bench.pauses.seconds) == 1


def test_an_upload_that_drive_forgets_again_and_again_comes_to_an_end(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.on_chunk = lambda: bench.emulator.faults.script("chunk", Fault("forgotten"))
    with pytest.raises(Failure, match="DestinationUnavailable: Google Drive takes no more bytes"):
        bench.send(drive, size=4 * CHUNK)
    assert len(bench.emulator.ranges) < 20


# socket_timeout


def test_a_chunk_that_is_slow_but_moves_is_no_silence(tmp_path: Path) -> None:
    with DriveEmulator(rate=1_500_000) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.socket_timeout, bench.chunk = 1.5, 8 * MIB
        bench.send(bench.opened(), size=8 * MIB)
        assert [
            operation for operation, _ in emulator.requests if operation in ("chunk", "probe")
        ] == ["chunk"]


@pytest.mark.parametrize("operation", ["list", "session", "chunk", "probe"])
def test_a_connection_on_which_nothing_moves_any_more_is_given_up(
    tmp_path: Path, operation: str
) -> None:
    with DriveEmulator() as emulator:
        bench = Bench(emulator, tmp_path)
        bench.socket_timeout, bench.chunk = 0.5, 8 * MIB
        emulator.faults.script(operation, Fault("stall"))
        if operation == "probe":
            emulator.faults.script("chunk", Fault(status=503))
        bench.send(bench.opened(), size=20 * MIB)
        bench.only_file()
        assert f"{operation} stall " in emulator.faults.happened
        if operation == "chunk":
            assert f"bytes=0-{4 * MIB - 1}" in emulator.ranges, (
                "what Drive had of it was not sent again"
            )


# what is on disk when


def test_the_session_is_on_disk_before_a_byte_is_sent(bench: Bench) -> None:
    drive = bench.opened()
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
        "only the request for the session itself came before"
    )


def test_a_stop_ends_a_chunk_in_its_middle_and_what_drive_has_is_not_sent_again(
    bench: Bench,
) -> None:
    bench.chunk = 8 * MIB
    drive = bench.opened()
    file = bench.file(8 * MIB)

    def stop(moved: int) -> None:
        if moved > 5 * MIB:
            bench.stop.set()

    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), file, stop)
    bench.stop.clear()
    told = bench.send(bench.opened(), size=8 * MIB)
    assert told[-1] <= 4 * MIB


def test_one_that_is_asked_to_stop_does_not_go_on_hashing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = []

    class Md5:
        def update(self, block: bytes) -> None:
            blocks.append(len(block))
            bench.stop.set()

    drive = bench.opened()
    monkeypatch.setattr(uploads.hashlib, "md5", lambda **_options: Md5())
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), bench.file(5 * MIB), lambda _n: None)
    assert len(blocks) == 1
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), bench.file(5 * MIB), lambda _n: None)
    assert len(blocks) == 1, "asked to stop before: not hashed at all"


def test_no_ids_are_no_crash(bench: Bench) -> None:
    bench.emulator.store.new_ids = lambda _count: []  # type: ignore[method-assign]
    with pytest.raises(Failure, match="DestinationUnavailable"):
        bench.opened()


def test_a_transport_that_would_send_a_chunk_twice_is_stopped(bench: Bench) -> None:
    """httplib2 repeats a request on a connection that was closed without an answer, with a body that is read to its end."""
    path = bench.file(100 * KIB)
    with path.open("rb") as stream:
        piece = ChunkReader(stream, 10, 50, lambda _size: None)
        assert (
            piece.read(40) == path.read_bytes()[10:50]
            and piece.read(40) == path.read_bytes()[50:60]
        )
        assert piece.read(40) == b""
        with pytest.raises(ConnectionResetError):
            piece.read(40)
        piece.seek(0)
        assert len(piece.read(100)) == 50


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
