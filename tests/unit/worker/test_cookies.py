"""Cookies files as browsers and their extensions write them."""

from pathlib import Path

import pytest
from tests.orders import make_order

from enrollgate.domain.reasons import Failure
from enrollgate.worker.cookies import copy_cookies

HEADER = "# Netscape HTTP Cookie File"


def line(name: str, expiry: str = "4102444800", domain: str = "courses.example.com") -> str:
    return "\t".join((domain, "FALSE", "/", "TRUE", expiry, name, "secret-value"))


def copied(tmp_path: Path, content: str) -> list[str]:
    folder = tmp_path / "cookies"
    folder.mkdir()
    (folder / "cookies.txt").write_text(content, encoding="utf-8")
    order = make_order(tmp_path, cookies_dir=folder)
    order.scratch_dir.mkdir()
    copy = copy_cookies(order)
    assert copy is not None and copy.stat().st_mode & 0o777 == 0o600
    return copy.read_text().splitlines()


@pytest.mark.parametrize("header", [HEADER + "\n", ""])
def test_a_byte_order_mark_is_ignored(tmp_path: Path, header: str) -> None:
    assert copied(tmp_path, f"\ufeff{header}{line('a')}\n") == [HEADER, line("a")]


def test_an_expiry_of_minus_one_is_a_session_cookie(tmp_path: Path) -> None:
    assert copied(tmp_path, line("a", expiry="-1")) == [HEADER, line("a", expiry="0")]


def test_a_bad_line_is_named_by_its_number_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "\n".join(
        (HEADER, line("a"), "courses.example.com secret-value", "#HttpOnly_" + line("b"))
    )
    assert copied(tmp_path, content) == [HEADER, line("a"), "#HttpOnly_" + line("b")]
    message = capsys.readouterr().err
    assert "1 lines are no cookies and are skipped: 3" in message and "secret" not in message


def test_a_file_without_a_cookie_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no line in the Netscape format"):
        copied(tmp_path, "session=abc; path=/\n")
