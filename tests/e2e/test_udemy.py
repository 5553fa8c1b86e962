"""From the row to the files, of a whole course: Node.js enrolls on the Udemy-shaped site."""

import re
from pathlib import Path

import pytest
from tests.e2e.operator_process import OperatorProcess, wait_until
from tests.udemy_site.front import NAMES, UdemySite, start_udemy
from tests.webservers.worker import with_hosts


class _Udemy:
    """What an operator's process and Node.js need of the site."""

    host = ",".join(NAMES)

    def __init__(self, site: UdemySite) -> None:
        self._site = site

    def course_url(self, course: str) -> str:
        return f"https://www.udemy.com/course/{course}/"

    def enroll(self, account: str, course: str) -> None:
        self._site.server.enrolled = True

    def cookies_file(self, account: str) -> str:
        lines = "".join(
            f".udemy.com\tTRUE\t/\tTRUE\t4102444800\t{name}\t{value}\n"
            for name, value in (("access_token", "valid-token"), ("client_id", "a-client"))
        )
        return f"# Netscape HTTP Cookie File\n{lines}"


def test_a_udemy_course_is_fetched_whole_and_only_once_enrolled(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_udemy(tmp_path / "site") as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.authority))
        udemy = _Udemy(site)
        site.server.enrolled = False
        operator = OperatorProcess(tmp_path, sqlite_url, udemy, SUBTITLES="all")
        operator.prefix = with_hosts(tmp_path, site.hosts_line)
        try:
            operator.create_table()
            account = operator.add(1, "pottery", status="processing")
            operator.start()
            wait_until(lambda: "ENROLL CHECK task=1" in operator.log, lambda: operator.log)
            assert site.requests == [], "nothing is asked for before the row is enrolled"
            udemy.enroll(account, "pottery")
            operator.sql("UPDATE download_tasks SET status = 'enrolled' WHERE id = 1")
            operator.wait_for_status(1, "completed")
        finally:
            operator.stop_all()

        delivered = {
            path.read_bytes() for path in (tmp_path / "courses").rglob("*") if path.is_file()
        }
        wanted = {
            "choosing-1080.mp4",
            "choosing-en.vtt",
            "choosing-vi.vtt",
            "centring-en.vtt",
            "slides.pdf",
            "templates.zip",
            "glazing-720.mp4",
            "glazes.pdf",
            "book.pdf",
        }
        assert {site.files[name] for name in wanted} <= delivered
        assert operator.runs() == [(1, 1, "finished", "succeeded", None)]
        assert not [
            path for path in site.server.paths if re.search(r"subscribe/|checkout|/cart|POST", path)
        ]
        assert account not in operator.log and "valid-token" not in operator.log
