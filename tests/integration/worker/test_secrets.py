"""Secrets and e-mail addresses never reach the log, a file name, the manifest or the report."""

import sys
from pathlib import Path

import pytest
from tests.faulty_site import FaultySite
from tests.media import lecture
from tests.orders import order_for, run

from enrollgate.domain.reasons import Reason
from enrollgate.worker.destinations.directory import Directory

SECRET, EMAIL = "TOPSECRET", "ada@example.com"
COOKIE = f"127.0.0.1 FALSE / FALSE 4102444800 session {SECRET}\n"
UNREADABLE = COOKIE.replace("4102444800 ", "")


def test_the_value_of_an_unreadable_cookie_is_not_logged(
    site: FaultySite, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A field is missing, and yt-dlp prints such lines."""
    (tmp_path / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n{UNREADABLE}")
    report = run(order_for(site, tmp_path, cookies_dir=tmp_path))
    assert report.reason is Reason.COOKIES_UNREADABLE
    output = "".join(capfd.readouterr())
    assert "CookiesUnreadable" in output and SECRET not in output


def test_the_value_of_a_cookie_that_is_sent_is_not_logged(
    site: FaultySite, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cookies.txt").write_text(COOKIE.replace(" ", "\t"))
    assert run(order_for(site, tmp_path, cookies_dir=tmp_path)).reason is None
    assert {sent.cookie for sent in site.sent} == {f"session={SECRET}"}
    output = "".join(capfd.readouterr())
    assert "complete" in output and SECRET not in output


def test_a_cookies_file_without_one_valid_line_is_unreadable(
    site: FaultySite, tmp_path: Path
) -> None:
    (tmp_path / "cookies.txt").write_text(UNREADABLE)
    assert run(order_for(site, tmp_path, cookies_dir=tmp_path)).reason is Reason.COOKIES_UNREADABLE


def test_the_token_of_a_direct_url_is_neither_stored_nor_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FaultySite([]) as site:
        site.pages[f"/play?token={SECRET}"] = ("video/mp4", lecture(5000))
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/play?token={SECRET}"))
    assert report.reason is None and report.items_delivered == 1, report
    names = "".join(str(path) for path in tmp_path.rglob("*"))
    texts = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "manifest.json" in names and "items" in texts
    assert SECRET not in names + texts + "".join(capfd.readouterr()) + report.encode()


def test_the_output_of_the_download_command_is_redacted(
    site: FaultySite, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = (
        f"import sys; print('for {EMAIL} https://h/x?sig={SECRET}', flush=True);"
        "open(sys.argv[2] + '/a.txt', 'wb').write(b'x')"
    )
    command = (sys.executable, "-c", program, "{course_url}", "{output_dir}")
    assert (
        run(order_for(site, tmp_path, downloader="command", download_command=command)).reason
        is None
    )
    output = "".join(capfd.readouterr())
    assert "for <e-mail> https://h/x" in output
    assert SECRET not in output and EMAIL not in output


def test_the_traceback_of_a_bug_is_redacted(
    site: FaultySite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(f"https://h/x?sig={SECRET} {EMAIL}")

    monkeypatch.setattr(Directory, "open", broken)
    assert run(order_for(site, tmp_path)).reason is Reason.WORKER_CRASHED
    log = capfd.readouterr().err
    assert "ZeroDivisionError" in log and SECRET not in log and EMAIL not in log
