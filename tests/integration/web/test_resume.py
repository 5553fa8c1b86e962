"""A killed download is resumed on real servers, and never mixes two versions of a file."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from examples.demo.media import make_lecture
from tests.webservers.apache import start_apache
from tests.webservers.nginx import start_nginx
from tests.webservers.site import TITLES, WebServer
from tests.webservers.worker import delivered_files, run_worker, start_worker

from enrollgate.domain.reasons import Reason

pytestmark = pytest.mark.usefixtures("webservers")
PARTIAL = 80_000  # bytes after which the worker is killed: two slices of nginx have begun


def start(name: str, folder: Path) -> AbstractContextManager[WebServer]:
    return start_apache() if name == "apache" else start_nginx(folder)


@pytest.fixture(params=["nginx", "apache"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    with start(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running


def write(server: WebServer, *, version: int = 0, age: float = 3600.0) -> list[bytes]:
    """Put a version of each lecture in place, last changed `age` seconds ago."""
    media = server.files.folder / "media"
    media.mkdir(exist_ok=True)
    contents = [make_lecture(version * 10 + number) for number in range(len(TITLES))]
    for number, content in enumerate(contents, 1):
        draft = media / "draft"
        draft.write_bytes(content)
        os.utime(draft, (time.time() - age,) * 2)
        draft.rename(media / f"{number}.mp4")
    return contents


def wait_for_part(tmp_path: Path) -> None:
    """Wait until the worker has a part of a lecture."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        sizes = [path.stat().st_size for path in (tmp_path / "scratch").rglob("*.part")]
        if max(sizes, default=0) >= PARTIAL:
            return
        time.sleep(0.02)
    pytest.fail("the worker does not download")


def feed(server: WebServer, location: str) -> str:
    return server.files.write_feed(
        "feed.xml", lambda number: f"{server.files.url}/{location}/{number}.mp4"
    )


@pytest.mark.parametrize("is_replaced", [False, True], ids=["same file", "replaced file"])
@pytest.mark.parametrize("location", ["slow", "slow-noranges"])
def test_a_killed_download_is_resumed_or_starts_over(
    server: WebServer, tmp_path: Path, location: str, is_replaced: bool
) -> None:
    lectures, url = write(server), feed(server, location)
    worker = start_worker(tmp_path, url, server.host, server.authority, DOWNLOADS="1")
    try:
        wait_for_part(tmp_path)
    finally:
        worker.kill()
        worker.communicate()
    if is_replaced:
        lectures = write(server, version=1, age=60)
    before = len(server.requests)
    report = run_worker(tmp_path, url, server.host, server.authority, ATTEMPT="2")
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures
    resumed = [each.status for each in server.requests[before:] if each.range not in ("", "-")]
    if location == "slow" and not is_replaced:
        assert 206 in resumed, "nothing is downloaded twice where the server has ranges"


def test_a_file_replaced_between_two_slices_is_never_mixed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """nginx then breaks the answer off ("etag mismatch in slice response")."""
    with start_nginx(tmp_path_factory.mktemp("nginx")) as nginx:
        old, url = write(nginx), feed(nginx, "slow-sliced")
        worker = start_worker(tmp_path, url, nginx.host, nginx.authority, DOWNLOADS="1")
        wait_for_part(tmp_path)
        new = write(nginx, version=1, age=60)
        worker.communicate(timeout=240)
        report = run_worker(tmp_path, url, nginx.host, nginx.authority, ATTEMPT="2")
    assert report.reason in (None, Reason.INCOMPLETE_DOWNLOAD, Reason.NETWORK_ERROR), report
    found = delivered_files(tmp_path)
    assert all(content in old + new for content in found)
    assert report.reason is not None or len(found) == 3
