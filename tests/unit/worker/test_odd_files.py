"""Files that earlier attempts left, and answers of Drive: odd ones count as none, or one error."""

import contextlib
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import httplib2
from hypothesis import given
from hypothesis import strategies as st
from tests.odd_json import TEXTS, VALUES, mutated

from enrollgate.worker.course import Fetched, Item
from enrollgate.worker.destinations.directory import MANIFEST, Directory
from enrollgate.worker.destinations.drive.client import build_error
from enrollgate.worker.destinations.drive.errors import FailedRequest, UnreadableResponse, classify
from enrollgate.worker.destinations.drive.files import parse_file, parse_json
from enrollgate.worker.destinations.drive.sessions import Session, SessionStore
from enrollgate.worker.downloaders.versions import Version

KEY = "course-key"
ITEM = Item("i1", 1, "Lecture", "Section", 1, "https://courses.example.com/1")
FILE = {
    "id": "abc",
    "name": "Lecture.mp4",
    "mimeType": "video/mp4",
    "createdTime": "2026-01-01T00:00:00Z",
    "trashed": False,
    "size": "5",
    "md5Checksum": "0" * 32,
    "appProperties": {"a": "b"},
    "parents": ["p"],
    "webViewLink": "https://drive.example.com/abc",
    "driveId": "d",
    "shortcutDetails": {"targetId": "t"},
}
SESSION = {
    "file_id": "abc",
    "size": 5,
    "md5": "0" * 32,
    "parent": "p",
    "uri": "https://upload.example.com/?upload_id=x",
    "done": False,
}
VERSION = {
    "validators": {"length": 5, "etag": '"x"', "last_modified": "Sat, 28 Nov 2026 00:00:00 GMT"},
    "condition": '"x"',
}


def deliver(root: Path) -> Directory:
    """Deliver one item into a directory, as a run does."""
    file = root / "scratch"
    file.write_bytes(b"12345")
    destination = Directory(root / "courses", 7, KEY, threading.Event())
    destination.open("Course")
    if destination.find(ITEM) is None:
        destination.deliver(ITEM, Fetched(file), lambda _count: None)
    destination.finish()
    return destination


def real_manifest() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        deliver(Path(folder))
        (manifest,) = Path(folder).rglob(MANIFEST)
        return json.loads(manifest.read_text())


@given(TEXTS | mutated(real_manifest()).map(json.dumps))
def test_odd_manifest_delivers_the_item_again_and_fails_nothing(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        deliver(Path(folder))
        (manifest,) = Path(folder).rglob(MANIFEST)
        manifest.write_bytes(text.encode("utf-8", "surrogatepass"))
        found = deliver(Path(folder)).find(ITEM)
        assert found is not None and found.size == 5


@given(st.binary(max_size=80) | VALUES.map(json.dumps).map(str.encode))
def test_odd_answer_of_drive_is_an_object_or_unreadable(content: bytes) -> None:
    with contextlib.suppress(UnreadableResponse):
        assert isinstance(parse_json(content), dict)


@given(mutated(FILE) | VALUES)
def test_odd_metadata_of_drive_is_a_file_or_unreadable(answer: Any) -> None:
    try:
        file = parse_file(answer)
    except UnreadableResponse:
        return
    assert type(file.size) in (int, type(None)) and type(file.trashed) is bool
    assert all(type(each) is str for each in (file.file_id, file.name, file.created, *file.parents))


@given(TEXTS | mutated(SESSION).map(json.dumps))
def test_odd_session_file_is_a_session_or_none(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "key.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        store = SessionStore(Path(folder))
        session = store.load("key")
        store.done_file_ids()
        if session is not None:
            store.save("key", session)
            assert store.load("key") == session and type(session.size) is int


def test_session_file_that_was_saved_is_loaded(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    store.save("key", Session("abc", 5, "0" * 32, "p", "https://upload.example.com/"))
    assert store.load("key") == Session("abc", 5, "0" * 32, "p", "https://upload.example.com/")
    (tmp_path / "key.folder").write_text("not an id\n")
    assert store.load_folder_id("key") is None


@given(TEXTS | mutated(VERSION).map(json.dumps))
def test_odd_version_file_is_a_version_or_none(text: str) -> None:
    version = Version.decode(text)
    assert version is None or Version.decode(version.encode()) == version


REFUSAL = {
    "error": {
        "code": 403,
        "message": "The user has exceeded the rate",
        "errors": [{"reason": "userRateLimitExceeded"}],
        "details": [{"reason": "X"}],
    }
}


@given(
    st.sampled_from([400, 401, 403, 404, 429, 500, 503]),
    st.binary(max_size=80) | mutated(REFUSAL).map(json.dumps).map(str.encode),
    st.text(max_size=30),
)
def test_odd_refusal_of_drive_is_a_failed_request(status: int, body: bytes, date: str) -> None:
    response = httplib2.Response({"date": date, "retry-after": date})
    response.status = status
    error = build_error(response, body)
    assert isinstance(classify(error), FailedRequest)
