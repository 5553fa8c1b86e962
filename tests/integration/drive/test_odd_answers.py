"""Answers of Drive that surprise: odd JSON, sessions, positions, checksums, folders and trash."""

import gzip
import json
import mimetypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator, Fault, Store
from tests.drive_emulator.store import DEPTH, FOLDER
from tests.faulty_site import FaultySite, Lecture
from tests.integration.drive.bench import CHUNK, KIB, MIB, Bench, build_item, ignore_bytes
from tests.media import lecture

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Fetched
from enrollgate.worker.destinations.drive import errors
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.errors import ForeignSession
from enrollgate.worker.destinations.drive.files import media_type
from enrollgate.worker.destinations.drive.retry import MAX_ATTEMPTS
from enrollgate.worker.work import work

SORRY = "<html><title>Sorry...</title>... your network may be sending automated queries.</html>"


def edited(**changes: object) -> Callable[[Any], Any]:
    """Return an edit that replaces fields of an answer, or of each file in a list."""

    def edit(answer: Any) -> Any:
        if isinstance(answer, dict) and "files" in answer:
            return {**answer, "files": [{**file, **changes} for file in answer["files"]]}
        return {**answer, **changes} if isinstance(answer, dict) else answer

    return edit


# pages and odd JSON


@pytest.mark.parametrize(
    "operation", ["get", "list", "create", "generateIds", "session", "chunk", "probe", "update"]
)
def test_page_about_automated_queries_is_retried(bench: Bench, operation: str) -> None:
    page = Fault("raw", status=403, body=SORRY, headers={"Content-Type": "text/html"})
    bench.emulator.faults.script(operation, page)
    if operation == "probe":
        bench.emulator.faults.script("chunk", Fault(status=503))
    if operation == "update":
        bench.emulator.faults.script("chunk", Fault("corrupt"))
    bench.send(bench.open_drive(), size=1000)
    bench.only_file()
    assert f"{operation} raw " in bench.emulator.faults.happened
    assert len(bench.pauses.seconds) >= 1, "it waits before it asks again"


ODD_FILES: list[object] = [
    [],
    None,
    "text",
    5,
    {},
    {"id": "x"},
    {"id": 5, "name": "n", "mimeType": "m", "createdTime": "t", "trashed": False},
]
ODD_FIELDS: list[dict[str, object]] = [
    {"id": "../../about"},
    {"id": ""},
    {"name": 5},
    {"mimeType": []},
    {"createdTime": None, "trashed": "no"},
    {"size": 600},
    {"size": "6e2"},
    {"size": "-1"},
    {"size": "9" * 5000},
    {"md5Checksum": "xyz"},
    {"md5Checksum": 5},
    {"appProperties": []},
    {"appProperties": {"enrollgateItem": 5}},
    {"parents": "rootfolder0001"},
    {"parents": [5]},
    {"trashed": "false"},
    {"webViewLink": 5},
]
ODD_BODIES = [
    b"",
    b"not JSON",
    b"\xff\xfe{}",
    b"[]",
    b"null",
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"files": {}}',
    b'{"files": [[]], "ids": {}}',
    b'{"files": [], "nextPageToken": 7, "ids": [7]}',
    b'{"files": [], "incompleteSearch": true, "ids": ["a/b"]}',
    b" " * (17 * MIB),
]


def deliver_with(bench: Bench, operation: str, fault: Fault) -> Failure:
    """Deliver an item while one operation always has the fault, and return the failure.

    What would ask again for the same has the fault as well.
    """
    drive = bench.drive()
    bench.emulator.faults.always(operation, fault)
    if operation == "chunk":
        bench.emulator.faults.always("probe", fault)
    with pytest.raises(Failure) as caught:
        if operation == "create":
            bench.emulator.faults.script("get", Fault("edit"))  # the configured folder's
            bench.emulator.faults.always("get", fault)
        drive.open("A course")
        bench.send(drive)
    return caught.value


@pytest.mark.parametrize("body", ODD_BODIES, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("operation", ["get", "list", "create", "generateIds", "chunk"])
def test_odd_body_is_unavailable(bench: Bench, operation: str, body: bytes) -> None:
    failure = deliver_with(bench, operation, Fault("raw", status=200, body=body))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE
    assert failure.message == errors.UNREADABLE.message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'[{"error": 5}]',
        b'{"error": 5}',
        b'{"error": {"errors": 5}}',
        b'{"error": {"errors": [{"reason": {}}], "message": []}}',
        b"[" * 100_000,
        b"\xff",
        b"null",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_odd_error_is_a_failure_of_the_destination(bench: Bench, status: int, body: bytes) -> None:
    bench.open_drive()
    failure = deliver_with(bench, "list", Fault("raw", status=status, body=body))
    assert str(failure.reason).startswith("Destination")


@pytest.mark.parametrize("change", ODD_FIELDS, ids=lambda change: str(change)[:40])
@pytest.mark.parametrize("operation", ["get", "list", "create", "chunk"])
def test_odd_field_is_unavailable(bench: Bench, operation: str, change: dict[str, object]) -> None:
    if operation == "list":
        bench.send(bench.open_drive())
    failure = deliver_with(bench, operation, Fault("edit", edit=edited(**change)))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


@pytest.mark.parametrize("answer", ODD_FILES, ids=str)
@pytest.mark.parametrize("operation", ["get", "create", "chunk"])
def test_odd_file_is_unavailable(bench: Bench, operation: str, answer: object) -> None:
    failure = deliver_with(bench, operation, Fault("edit", edit=lambda _: answer))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


def test_compressed_bomb_is_unavailable(bench: Bench) -> None:
    bomb = gzip.compress(b" " * (64 * MIB))
    fault = Fault("raw", status=200, body=bomb, headers={"Content-Encoding": "gzip"})
    failure = deliver_with(bench, "list", fault)
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


def test_list_without_an_end_is_unavailable(bench: Bench) -> None:
    endless = {"files": [], "nextPageToken": "again"}
    failure = deliver_with(bench, "list", Fault("edit", edit=lambda _: endless))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": "a", "expires_in": "soon"}',
        b'{"access_token": "a\\nb: c", "expires_in": 5}',
        b"<html>",
        b"null",
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:50]),
)
def test_odd_token_is_unavailable(bench: Bench, body: bytes) -> None:
    failure = deliver_with(bench, "token", Fault("raw", status=200, body=body))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


@pytest.mark.parametrize("body", [b"[]", b"<html>", b"null"])
def test_page_that_refuses_a_token_is_unavailable(bench: Bench, body: bytes) -> None:
    failure = deliver_with(bench, "token", Fault("raw", status=403, body=body))
    assert failure.reason is Reason.DESTINATION_UNAVAILABLE


# sessions


def test_session_that_answers_400_is_replaced(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.faults.script("chunk", Fault(status=400, reason="badRequest"))
    bench.send(drive, size=3 * CHUNK)
    bench.only_file()
    assert [name for name, _ in bench.emulator.requests].count("session") == 2


def test_saved_session_that_answers_400_is_replaced(bench: Bench) -> None:
    bench.break_off(5 * CHUNK)
    page = "<html>400. Your client has issued a malformed or illegal request.</html>"
    bench.emulator.faults.script("probe", Fault("raw", status=400, body=page))
    bench.send(bench.open_drive(), size=5 * CHUNK)
    bench.only_file()


FOREIGN = [
    "https://evil.example/upload?upload_id=1",
    "https://www.googleapis.com.evil.example/upload",
    "https://evilgoogleapis.com/upload",
    "https://www.googleapis.com@evil.example/upload",
    "https://evil.example\\@www.googleapis.com/upload",
    "http://www.googleapis.com/upload",
    "https://www.googleapis.com:8443/upload",
    "//evil.example/upload",
    "ftp://www.googleapis.com/upload",
    "https://[::1/upload",
]


@pytest.mark.parametrize("location", FOREIGN)
def test_session_on_another_host_never_gets_the_token(
    bench: Bench, location: str, tmp_path: Path
) -> None:
    with DriveEmulator() as evil:
        location = location.replace("https://evil.example/", evil.url)
        drive = bench.open_drive()
        fault = Fault("headers", headers={"Location": location})
        bench.emulator.faults.always("session", fault)
        with pytest.raises(Failure) as caught:
            bench.send(drive)
        assert caught.value.message == errors.FOREIGN_SESSION.message
        assert evil.requests == []
    assert "evil" not in str(caught.value)
    saved = list((bench.folder / "scratch" / "drive").glob("*.json"))
    assert all(json.loads(path.read_text())["uri"] is None for path in saved)


@pytest.mark.parametrize(
    ("uri", "is_trusted"),
    [
        ("https://www.googleapis.com/upload/drive/v3/files?upload_id=A-b_1", True),
        ("https://www.googleapis.com:443/upload/drive/v3/files?upload_id=1", True),
        ("https://content.googleapis.com/upload?upload_id=1", True),
        ("https://drive.school.example/upload?upload_id=1", True),
        *((uri, False) for uri in FOREIGN if uri.startswith("https")),
    ],
)
def test_only_google_and_the_endpoint_are_trusted(bench: Bench, uri: str, is_trusted: bool) -> None:
    with FaultySite([]) as site:
        credentials = load_credentials(bench.order(site).settings)
    client = Client(credentials, "https://drive.school.example")
    if is_trusted:
        client._require_trusted(uri)
    else:
        with pytest.raises(ForeignSession):
            client._require_trusted(uri)


def test_relative_session_is_the_endpoints(bench: Bench) -> None:
    drive = bench.open_drive()
    relative = "/upload/drive/v3/files?uploadType=resumable&upload_id=session000000"
    bench.emulator.faults.script("session", Fault("headers", headers={"Location": relative}))
    bench.send(drive, size=1000)
    bench.only_file()


# positions


@pytest.mark.parametrize(
    "position",
    ["bytes=0-", "bytes=1-5", "bytes=-5", "0-999999999", "bytes=0-999999", "x", "bytes 0-5/9"],
)
def test_odd_position_is_asked_for_again(bench: Bench, position: str) -> None:
    drive = bench.open_drive()
    fault = Fault("headers", headers={"Range": position})
    bench.emulator.faults.script("chunk", fault)
    bench.send(drive, size=5 * CHUNK)
    bench.only_file()
    assert bench.emulator.store.bytes == 5 * CHUNK, "nothing is skipped, nothing sent again"


def test_position_without_a_unit_is_understood(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.faults.script("chunk", Fault("headers", headers={"Range": f"0-{CHUNK - 1}"}))
    bench.send(drive, size=3 * CHUNK)
    assert bench.pauses.seconds == []


# checksums and types


@pytest.mark.parametrize("missing", ["md5Checksum", "size"])
@pytest.mark.parametrize("times", [1, 4])
def test_missing_checksum_is_asked_for_again(bench: Bench, missing: str, times: int) -> None:
    drive = bench.open_drive()
    late = Fault("edit", edit=lambda file: {k: v for k, v in file.items() if k != missing})
    bench.emulator.faults.script("chunk", late)
    bench.emulator.faults.script("get", *[late] * (times - 1))
    bench.send(drive, size=1000)
    assert bench.emulator.store.bytes == 1000, "the file is not sent again"
    bench.only_file()


def test_checksum_that_comes_with_the_next_attempt_is_verified(bench: Bench) -> None:
    drive = bench.open_drive()
    late = Fault("edit", edit=lambda file: {**file, "md5Checksum": None})
    bench.emulator.faults.script("chunk", late)
    bench.emulator.faults.script("get", *[late] * MAX_ATTEMPTS)
    with pytest.raises(Failure) as caught:
        bench.send(drive, size=1000)
    assert caught.value.message == errors.CHECKSUM_LATE.message
    again = bench.open_drive()
    bench.send(again, size=1000)
    assert bench.emulator.store.bytes == 1000, "the file is not sent again"
    bench.only_file()


def test_listed_file_without_checksum_is_asked_for(bench: Bench) -> None:
    bench.send(bench.open_drive(), size=1000)
    no_md5 = Fault("edit", edit=edited(md5Checksum=None))
    again = bench.drive()
    bench.emulator.faults.script("list", *[no_md5] * 2)
    bench.emulator.faults.script("get", Fault("edit"), no_md5, no_md5)
    again.open("A course")
    assert again.find(build_item(1)) is not None
    bench.only_file()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mp4", "video/mp4"),
        ("a.MKV", "video/matroska"),
        ("a.vtt", "text/vtt"),
        ("a.srt", "application/x-subrip"),
        ("a.pdf", "application/pdf"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.html", "text/html"),
        ("a.json", "application/json"),
        ("a.m4a", "audio/mp4"),
        ("a.unknown", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_file_is_sent_with_its_type(bench: Bench, name: str, kind: str) -> None:
    file = bench.folder / name
    file.write_bytes(b"x" * 100)
    bench.open_drive().deliver(build_item(1), Fetched(file), ignore_bytes)
    assert bench.only_file()["mimeType"] == kind


def test_types_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    mimetypes.add_type("application/vnd.google-apps.document", ".mp4")
    try:
        assert media_type(Path("a.mp4")) == "video/mp4"
    finally:
        mimetypes.init()


# folders and trash


def test_shortcut_as_destination_names_its_target(bench: Bench) -> None:
    store = bench.emulator.store
    store.insert(
        {
            "id": "shortcut0001",
            "name": "Courses",
            "mimeType": "application/vnd.google-apps.shortcut",
            "shortcutDetails": {"targetId": store.root, "targetMimeType": FOLDER},
        },
        checked=False,
    )
    with pytest.raises(Failure, match="ConfigurationError: .*shortcut") as caught:
        bench.drive("shortcut0001").open("A course")
    assert f"drive:{store.root}" in caught.value.remedy


@pytest.mark.parametrize("shared_drive", [False, True])
def test_folder_that_lies_too_deep_has_its_own_words(tmp_path: Path, shared_drive: bool) -> None:
    with DriveEmulator(Store(shared_drive=shared_drive)) as emulator:
        parent = emulator.store.root
        for _ in range(DEPTH - 2):
            (folder_id,) = emulator.store.new_ids(1)
            body = {"id": folder_id, "name": "deep", "mimeType": FOLDER, "parents": [parent]}
            parent = emulator.store.insert(body)["id"]
        bench = Bench(emulator, tmp_path)
        drive = bench.drive(parent)
        drive.open("A course")  # at level 100
        with pytest.raises(Failure) as caught:
            bench.deliver(drive, 1, "A section")
        assert caught.value.reason is Reason.DESTINATION_QUOTA
        assert caught.value.message.startswith(errors.TOO_DEEP.message)
        assert caught.value.remedy == errors.TOO_DEEP.remedy


@pytest.mark.parametrize("accepts", [False, True])
def test_course_folder_trashed_by_a_person_fails_the_run(
    tmp_path: Path, accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DriveEmulator(Store(accepts_trashed_parents=accepts)) as emulator:
        bench = Bench(emulator, tmp_path)
        drive = bench.open_drive()
        bench.send(drive, size=1000)
        emulator.store.files[drive.location[0]]["trashed"] = True
        with pytest.raises(Failure) as caught:
            bench.send(drive, size=1000, number=2)
        assert caught.value.reason is Reason.DESTINATION_NOT_FOUND


def test_file_trashed_between_two_attempts_is_sent_again(bench: Bench) -> None:
    bench.emulator.faults.script("chunk", Fault("lost"))
    bench.break_off(1000)
    trashed = bench.only_file()
    trashed["trashed"] = True  # its session still answers 200
    bench.send(bench.open_drive(), size=1000)
    assert bench.only_file()["id"] != trashed["id"]


def test_file_removed_during_the_run_fails_it(bench: Bench, without_pauses: None) -> None:
    def trash_the_first() -> None:
        files = bench.emulator.store.media()
        if len(files) == 3:
            files[0]["trashed"] = True

    bench.emulator.after_final_response = trash_the_first
    with FaultySite([Lecture(f"L{n}", lecture(70 * KIB, n)) for n in range(3)]) as site:
        report = work(bench.order(site, course_index=False), stop=threading.Event())
        assert report.reason is Reason.DESTINATION_UNAVAILABLE
        assert report.message == errors.VANISHED.message
        bench.emulator.after_final_response = lambda: None
        again = work(bench.order(site, course_index=False), stop=threading.Event())
    assert (again.reason, again.items_delivered, again.items_skipped) == (None, 1, 2)
