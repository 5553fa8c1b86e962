"""What `doctor` says of cookies files."""

from pathlib import Path

import pytest

from enrollgate.commands.cookies_check import check_cookies_files
from enrollgate.domain.account import cookies_name
from enrollgate.domain.check import Severity

EMAIL = "ada@example.com"
NOW = 1_800_000_000.0
DAY = 86400


def write(folder: Path, name: str, *expiries: float) -> Path:
    path = folder / name
    lines = [
        f"example.com\tFALSE\t/\tTRUE\t{at:.0f}\ts{n}\tsecret" for n, at in enumerate(expiries)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("expiries", "severity", "words"),
    [
        ((NOW - 1, NOW - DAY), Severity.FAILED, "all cookies have expired"),
        ((NOW - 1, NOW + DAY), Severity.WARNING, "in 24 hours"),
        ((NOW - 1, NOW + 30 * DAY), Severity.OK, "none has expired"),
        ((NOW - 1, 0), Severity.OK, "none has expired"),
        ((), Severity.FAILED, "holds no cookie"),
    ],
    ids=["expired", "soon", "later", "session", "empty"],
)
def test_expired_cookies_are_named_by_their_file(
    tmp_path: Path, expiries: tuple[float, ...], severity: Severity, words: str
) -> None:
    file = write(tmp_path, cookies_name(EMAIL), *expiries)
    check = check_cookies_files([file], {EMAIL}, (), NOW)
    assert check.severity is severity and words in check.detail
    assert "secret" not in check.detail and "@" not in check.detail


def test_a_file_of_no_account_is_named(tmp_path: Path) -> None:
    files = [
        write(tmp_path, cookies_name("bob@example.com"), 0),
        write(tmp_path, "cookies-ada@example.com.txt", 0),
        write(tmp_path, cookies_name(EMAIL), 0),
        write(tmp_path, "cookies.txt", 0),
    ]
    check = check_cookies_files(files, {EMAIL}, (), NOW)
    assert check.severity is Severity.WARNING and files[0].name in check.detail
    assert files[2].name not in check.detail and "ada@" not in check.detail
    unknown = check_cookies_files([files[0], files[3]], None, (), NOW)
    assert unknown.severity is Severity.OK


def test_a_file_that_is_no_cookies_file_fails(tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text('[{"name": "a"}]')
    check = check_cookies_files([file], None, (), NOW)
    assert check.severity is Severity.FAILED and "JSON export" in check.detail


def test_open_tasks_without_a_cookies_file_are_named_by_it(tmp_path: Path) -> None:
    bob = "bob@example.com"
    files = [write(tmp_path, cookies_name(EMAIL), 0)]
    check = check_cookies_files(files, {EMAIL, bob}, {EMAIL, bob}, NOW)
    assert check.severity is Severity.WARNING and "@" not in check.detail
    assert f"accounts of open tasks have no file: {cookies_name(bob)}" in check.detail
    assert check_cookies_files(files, {EMAIL, bob}, {EMAIL}, NOW).severity is Severity.OK
    files.append(write(tmp_path, "cookies.txt", 0))
    assert check_cookies_files(files, {EMAIL, bob}, {EMAIL, bob}, NOW).severity is Severity.OK
