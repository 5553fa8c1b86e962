"""The worker against a real Apache httpd: compression, logins, limits, archives, lists of files."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.orders import delivered
from tests.webservers.apache import start_apache
from tests.webservers.site import WebServer
from tests.webservers.worker import delivered_files, run_worker

from enrollgate.domain.account import cookies_name
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

pytestmark = pytest.mark.usefixtures("webservers")


@pytest.fixture
def apache(request: pytest.FixtureRequest) -> Iterator[WebServer]:
    with start_apache(**getattr(request, "param", {})) as running:
        yield running


@pytest.fixture
def lectures(apache: WebServer) -> list[bytes]:
    return apache.files.write()


def feed(apache: WebServer, location: str, suffix: str = "mp4") -> str:
    """Write a feed whose lectures are below `location`."""
    return apache.files.write_feed(
        "feed.xml", lambda number: f"{apache.files.url}/{location}/{number}.{suffix}"
    )


def run(apache: WebServer, tmp_path: Path, url: str, **settings: str) -> Report:
    return run_worker(tmp_path, url, apache.host, apache.authority, **settings)


@pytest.mark.parametrize(
    "apache",
    [{}, {"http2": True}, {"keep_alive": False}],
    ids=["HTTP/1.1", "HTTP/2", "no keep-alive"],
    indirect=True,
)
@pytest.mark.parametrize("location", ["media", "deflate", "noranges"])
def test_a_course_is_delivered_byte_for_byte(
    apache: WebServer, lectures: list[bytes], tmp_path: Path, location: str
) -> None:
    report = run(apache, tmp_path, feed(apache, location))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures


def test_a_limited_bandwidth_only_takes_longer(
    apache: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    report = run(apache, tmp_path, feed(apache, "slow"))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures


def test_a_later_attempt_skips_what_has_an_etag_that_deflate_changed(
    apache: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    """Compressed, `"abc"` becomes `"abc-gzip"`: both are the same version of the file."""
    first = run(apache, tmp_path, feed(apache, "deflate"))
    assert first.items_delivered == 3, first
    second = run(apache, tmp_path, feed(apache, "deflate"), ATTEMPT="2")
    assert (second.reason, second.items_skipped) == (None, 3), second
    assert delivered_files(tmp_path) == lectures


def write_cookie(tmp_path: Path, apache: WebServer, value: str) -> dict[str, str]:
    """Give the account a session cookie. Returns the settings that name it."""
    name = cookies_name("ada@example.com")
    (tmp_path / "cookies").mkdir()
    host = apache.host.partition(":")[0]
    line = "\t".join((host, "FALSE", "/", "TRUE", "0", "session", value))
    (tmp_path / "cookies" / name).write_text(f"# Netscape HTTP Cookie File\n{line}\n")
    return {"COOKIES_DIR": str(tmp_path / "cookies"), "COOKIES_NAME": name}


@pytest.mark.parametrize(
    ("location", "cookie", "reason"),
    [
        ("session", "ada", None),
        ("session", "old", Reason.COOKIES_EXPIRED),
        ("form", "old", Reason.COOKIES_EXPIRED),
        ("members", "old", Reason.COOKIES_EXPIRED),
    ],
    ids=["valid", "redirect", "mod_auth_form", "mod_auth_basic"],
)
def test_a_site_that_asks_for_a_login_says_that_the_cookies_expired(
    apache: WebServer,
    lectures: list[bytes],
    tmp_path: Path,
    location: str,
    cookie: str,
    reason: Reason | None,
) -> None:
    settings = write_cookie(tmp_path, apache, cookie)
    report = run(apache, tmp_path, feed(apache, location), **settings)
    assert report.reason == reason, report
    assert delivered_files(tmp_path) == (lectures if reason is None else [])


def test_an_archive_with_an_encoding_of_its_own_is_delivered_whole(
    apache: WebServer, tmp_path: Path
) -> None:
    """`AddEncoding x-gzip .tgz`: the encoding is the file's own, but clients decode it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    media = apache.files.folder / "media"
    media.mkdir()
    for number in (1, 2, 3):
        (media / f"{number}.tgz").write_bytes(content.getvalue())
    report = run(apache, tmp_path, feed(apache, "attachments", "tgz"))
    assert (report.reason, report.items_delivered) == (None, 3), report
    for name, found in delivered(tmp_path).items():
        tar = gzip.decompress(found) if name.endswith("gz") else found  # as its name says
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            assert archive.getnames() == ["notes.txt"], name


def test_a_list_of_files_is_no_course(
    apache: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    assert lectures
    report = run(apache, tmp_path, f"{apache.files.url}/listed/")
    assert report.reason is Reason.UNSUPPORTED_COURSE, report
    assert delivered_files(tmp_path) == []
