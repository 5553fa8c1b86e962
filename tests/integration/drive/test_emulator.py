"""The emulator refuses what Google's description of the API does not have, as Drive does.

Each request is checked against `drive.v3.json`, which google-api-python-client ships, and so are
the emulator's answers. The requests here are sent without that library, which would refuse them.
"""

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from tests.drive_emulator import DriveEmulator, Store
from tests.drive_emulator.discovery import DOCUMENT, check_answer, select_fields
from tests.drive_emulator.store import FOLDER, Refused
from tests.integration.drive.bench import Bench

UPLOAD = "/upload/drive/v3/files?uploadType=resumable"
JSON = {"Content-Type": "application/json"}
SESSION = JSON | {"X-Upload-Content-Length": "5", "X-Upload-Content-Type": "video/mp4"}


def ask(
    emulator: DriveEmulator,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] = JSON,
) -> tuple[int, Any, dict[str, str]]:
    """Send a request with a good token. Returns status, body and headers of the answer."""
    connection = http.client.HTTPConnection(urlsplit(emulator.url).netloc, timeout=10)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, headers | {"Authorization": "Bearer good"})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text.decode()
    return response.status, answer, dict(response.getheaders())


def read_reason(answer: Any) -> str:
    """Return the reason of an error, whose shape must be Google's."""
    error = answer["error"]
    assert set(error) >= {"code", "message", "errors"}
    assert set(error["errors"][0]) >= {"domain", "reason", "message"}
    return str(error["errors"][0]["reason"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/drive/v3/file"),
        ("GET", "/drive/v2/files"),
        ("POST", "/drive/v3/files/rootfolder0001"),
        ("PUT", "/drive/v3/files"),
        ("GET", "/upload/drive/v3/files"),
        ("GET", "/drive/v3/files/rootfolder0001/nothing"),
    ],
)
def test_unknown_path_or_method_is_not_found(bench: Bench, method: str, path: str) -> None:
    status, answer, headers = ask(bench.emulator, method, path)
    assert status == 404 and "<html>" in answer and headers["Content-Type"] == "text/html"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("pagesize=5", "badRequest"),
        ("supportAllDrives=true", "badRequest"),
        ("upload_id=5", "badRequest"),
        ("fileId=5", "badRequest"),
        ("supportsTeamDrives=true", "badRequest"),
        ("corpus=user", "badRequest"),
        ("pageSize=5&pageSize=6", "badRequest"),
        ("pageSize=0", "invalidParameter"),
        ("pageSize=1001", "invalidParameter"),
        ("pageSize=ten", "invalidParameter"),
        ("supportsAllDrives=yes", "invalidParameter"),
        ("alt=xml", "invalidParameter"),
        ("prettyPrint=1", "invalidParameter"),
        ("corpora=team", "invalid"),
        ("corpora=drive", "invalid"),
        ("driveId=x", "invalid"),
        ("corpora=drive&driveId=x", "invalid"),
        ("orderBy=created", "invalid"),
        ("orderBy=createdTime%20descending", "invalid"),
        ("pageToken=5", "invalid"),
        ("q=name%20like%20'x'", "invalid"),
        *(
            (f"fields={quote(mask)}", "invalidParameter")
            for mask in ("file", "files(names)", "files(id", "files(id))", "", "files(id,)", "a b")
        ),
        ("fields=files(id(x))", "invalidParameter"),
    ],
)
def test_query_that_the_api_does_not_have_is_refused(bench: Bench, query: str, reason: str) -> None:
    status, answer, _ = ask(bench.emulator, "GET", f"/drive/v3/files?{query}")
    assert (status, read_reason(answer)) == (400, reason)


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"title": "x"}, 400, "badRequest"),
        ({"appproperties": {}}, 400, "badRequest"),
        ({"name": 5}, 400, "badRequest"),
        ({"parents": "rootfolder0001"}, 400, "badRequest"),
        ({"parents": [5]}, 400, "badRequest"),
        ({"trashed": "false"}, 400, "badRequest"),
        ({"appProperties": {"a": 5}}, 400, "badRequest"),
        ({"createdTime": "yesterday"}, 400, "badRequest"),
        ({"contentHints": {"text": "x"}}, 400, "badRequest"),
        ({"md5Checksum": "0" * 32}, 403, "fieldNotWritable"),
        ({"size": "5"}, 403, "fieldNotWritable"),
        ({"driveId": "x"}, 403, "fieldNotWritable"),
        ({"id": "made-up"}, 400, "invalid"),
        ({"parents": ["nosuchfolder00"]}, 404, "notFound"),
        ({"parents": ["rootfolder0001", "rootfolder0001"]}, 403, "teamDrivesParentLimit"),
        ({"appProperties": {"a": "x" * 124}}, 400, "invalid"),
    ],
)
@pytest.mark.parametrize("path", ["/drive/v3/files", UPLOAD])
def test_metadata_that_the_api_does_not_take_is_refused(
    bench: Bench, path: str, change: dict[str, object], status: int, reason: str
) -> None:
    body = {"name": "x", "mimeType": FOLDER, "parents": ["rootfolder0001"]} | change
    found, answer, _ = ask(bench.emulator, "POST", path, body, SESSION)
    assert (found, read_reason(answer)) == (status, reason)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
def test_body_that_is_no_json_object_is_refused(bench: Bench, body: bytes) -> None:
    status, answer, _ = ask(bench.emulator, "POST", "/drive/v3/files", body)
    assert (status, read_reason(answer)) == (400, "parseError")


@pytest.mark.parametrize(
    ("span", "length"),
    [
        ("bytes 0-4/6", 5),
        ("bytes 0-3/5", 5),
        ("bytes 0-2/5", 3),
        ("bytes 2-4/5", 3),
        ("bytes */7", 0),
    ],
)
def test_chunk_that_does_not_fit_is_refused(bench: Bench, span: str, length: int) -> None:
    status, _, headers = ask(bench.emulator, "POST", UPLOAD, {"name": "x"}, SESSION)
    assert status == 200
    path = headers["Location"].removeprefix(bench.emulator.url.rstrip("/"))
    status, answer, _ = ask(bench.emulator, "PUT", path, b"x" * length, {"Content-Range": span})
    assert (status, bool(read_reason(answer))) == (400, True)


def test_upload_without_its_length_or_type_is_refused(bench: Bench) -> None:
    for missing in ("X-Upload-Content-Length", "X-Upload-Content-Type", "Content-Type"):
        headers = {name: value for name, value in SESSION.items() if name != missing}
        status, answer, _ = ask(bench.emulator, "POST", UPLOAD, {"name": "x"}, headers)
        assert status in (400, 415) and read_reason(answer)


@pytest.mark.parametrize(
    ("mask", "fields"),
    [
        ("", {"kind", "id", "name", "mimeType"}),
        ("?fields=id", {"id"}),
        ("?fields=id,trashed,webViewLink", {"id", "trashed", "webViewLink"}),
        ("?fields=appProperties(a),id", {"id", "appProperties"}),
        ("?fields=appProperties/a", {"appProperties"}),
    ],
)
def test_only_the_fields_that_are_asked_for_are_sent(
    bench: Bench, mask: str, fields: set[str]
) -> None:
    bench.emulator.store.files["rootfolder0001"]["appProperties"] = {"a": "1", "b": "2"}
    status, answer, _ = ask(bench.emulator, "GET", f"/drive/v3/files/rootfolder0001{mask}")
    assert (status, set(answer)) == (200, fields)
    if "appProperties" in fields:
        assert answer["appProperties"] == {"a": "1"}


def test_shared_drive_needs_its_parameters(bench: Bench) -> None:
    with DriveEmulator(Store(shared_drive=True)) as emulator:
        status, answer, _ = ask(emulator, "GET", "/drive/v3/files/rootfolder0001")
        assert (status, read_reason(answer)) == (404, "notFound")
        query = "supportsAllDrives=true&includeItemsFromAllDrives=true&corpora=drive&driveId=other"
        status, answer, _ = ask(emulator, "GET", f"/drive/v3/files?{query}")
        assert (status, read_reason(answer)) == (404, "notFound")


def test_answers_of_a_run_are_those_of_the_api(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.deliver(drive, 1, "Start")
    files = list(bench.emulator.store.files.values())
    assert len(files) == 4
    for file in files:
        check_answer("File", file)
    assert {file["mimeType"] for file in files} == {FOLDER, "video/mp4"}


@pytest.mark.parametrize(
    "change",
    [{"size": 5}, {"size": "five"}, {"tittle": "x"}, {"createdTime": "2026"}, {"parents": [[]]}],
)
def test_answer_that_the_api_would_not_give_is_found(change: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match="not Drive's"):
        check_answer("File", {"id": "x", **change})


def test_wrong_answer_of_the_emulator_fails_the_test() -> None:
    emulator = DriveEmulator()
    with pytest.raises(AssertionError, match="answer is not Drive"):
        with emulator:
            emulator.store.files["rootfolder0001"]["size"] = 5
            with pytest.raises(http.client.HTTPException):
                ask(emulator, "GET", "/drive/v3/files/rootfolder0001")


def test_every_mask_of_the_description_is_accepted() -> None:
    """The example masks of Google's guide on the `fields` parameter."""
    for mask in ("*", "files(id,name,mimeType)", "nextPageToken,files(id)", "files/id", "files/*"):
        select_fields("FileList", mask, {"files": []})
    with pytest.raises(Refused, match="invalidParameter"):
        select_fields("FileList", "nextPageTokens", {})


def test_resumable_uploads_use_the_path_of_the_api() -> None:
    upload = DOCUMENT["resources"]["files"]["methods"]["create"]["mediaUpload"]
    assert upload["protocols"]["simple"]["path"] == "/upload/drive/v3/files"
