"""Cookies files as browsers and their extensions write them."""

import os
from pathlib import Path

import pytest
from tests.orders import make_order

from enrollgate.control.wiring import hash_cookies
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies

HEADER = "# Netscape HTTP Cookie File"


def line(name: str, expiry: str = "4102444800", domain: str = "courses.example.com") -> str:
    return "\t".join((domain, "FALSE", "/", "TRUE", expiry, name, "secret-value"))


def copied(tmp_path: Path, content: str | bytes) -> list[str]:
    folder = tmp_path / "cookies"
    folder.mkdir()
    written = content.encode() if isinstance(content, str) else content
    (folder / "cookies.txt").write_bytes(written)
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


@pytest.mark.parametrize("digits", [21, 400, 5000])
def test_an_endless_expiry_is_no_cookie(tmp_path: Path, digits: int) -> None:
    content = line("a", expiry="9" * digits) + "\n" + line("b")
    assert copied(tmp_path, content) == [HEADER, line("b")]


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cookies.txt")
    order = make_order(tmp_path, cookies_dir=tmp_path)
    with pytest.raises(Failure, match="is not a regular file"):
        copy_cookies(order)
    assert hash_cookies(tmp_path, "0" * 64) is None


def test_a_bad_line_is_named_by_its_number_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "\n".join(
        (HEADER, line("a"), "courses.example.com secret-value", "#HttpOnly_" + line("b"))
    )
    assert copied(tmp_path, content) == [HEADER, line("a"), "#HttpOnly_" + line("b")]
    message = capsys.readouterr().err
    assert "1 lines are no cookies and are skipped: 3" in message and "secret" not in message


@pytest.mark.parametrize("bad", [b"\xe9", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"])
def test_a_line_that_is_not_utf_8_is_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    good = line("a").replace("secret", "caf\u00e9")
    content = good.encode() + b"\n" + line("b").encode() + bad + b"\n" + line("c").encode()
    assert copied(tmp_path, content) == [HEADER, good, line("c")]
    message = capsys.readouterr().err
    assert "1 lines are no cookies and are skipped: 2" in message and "secret" not in message


@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n", f"{HEADER}\n# no lines\r\n"])
def test_an_empty_file_is_unreadable_with_the_way_to_export(tmp_path: Path, content: str) -> None:
    with pytest.raises(Failure, match=r"cookies\.txt holds no cookie$") as failure:
        copied(tmp_path, content)
    assert failure.value.reason is Reason.COOKIES_UNREADABLE
    assert "Netscape" in failure.value.remedy


def test_a_file_without_a_cookie_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no line in the Netscape format"):
        copied(tmp_path, "session=abc; path=/\n")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (line("a") + "\r\n" + line("b") + "\r\n", [line("a"), line("b")]),
        (line("a") + "\r" + line("b"), [line("a"), line("b")]),
        (line("a").replace("\t", "    "), [line("a")]),
        (line("a").replace("\t", " "), [line("a")]),
        ("#HttpOnly_" + line("a"), ["#HttpOnly_" + line("a")]),
        (line("a", expiry="4102444800000"), [line("a")]),
        (line("a", expiry="4102444800000000"), [line("a")]),
        (line("a", expiry="15746918400000000"), [line("a")]),
        (line("a", expiry=""), [line("a", expiry="")]),
        (line("a").replace("TRUE", "true").replace("FALSE", "false"), [line("a")]),
        (line("a").removesuffix("\tsecret-value"), [line("a").removesuffix("secret-value")]),
        (
            line("a", domain=".example.com"),
            [line("a", domain=".example.com").replace("FALSE", "TRUE")],
        ),
        (line("a") + "\n" + line("a", expiry="0"), [line("a"), line("a", expiry="0")]),
        (
            line("a").replace("secret", "se\u2028cret"),
            [line("a").replace("secret", "se\u2028cret")],
        ),
    ],
    ids=[
        "Windows",
        "old Mac",
        "spaces",
        "one space",
        "HttpOnly",
        "milliseconds",
        "microseconds",
        "Chrome",
        "no expiry",
        "lower case",
        "no value",
        "flag against dot",
        "duplicate",
        "line separator",
    ],
)
def test_a_file_in_any_common_shape_is_read(
    tmp_path: Path, written: str, expected: list[str]
) -> None:
    found = copied(tmp_path, written)
    assert found[0] == HEADER and "\n".join(found[1:]) == "\n".join(
        each for line in expected for each in line.splitlines()
    )


@pytest.mark.parametrize("shape", ['[{"name": "a", "value": "v"}]', '\ufeff{"cookies": []}'])
def test_a_json_export_is_named_with_the_way_to_export(tmp_path: Path, shape: str) -> None:
    with pytest.raises(Failure, match="JSON export") as failure:
        copied(tmp_path, shape)
    assert "Netscape" in failure.value.remedy and "value" not in failure.value.message


def test_ten_megabytes_of_cookies_are_read(tmp_path: Path) -> None:
    assert len(copied(tmp_path, f"{line('a')}\n" * 150_000)) == 150_001


def test_renewed_cookies_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    assert copied(tmp_path, line("a")) == [HEADER, line("a")]
    order = make_order(tmp_path, cookies_dir=tmp_path / "cookies")
    renewed = line("a").replace("secret-value", "renewed")
    (order.scratch_dir / "cookies.txt").write_text(f"{HEADER}\n{renewed}\n")
    copy = copy_cookies(order)
    assert copy is not None and copy.read_text().splitlines() == [HEADER, line("a"), renewed]
    (tmp_path / "cookies" / "cookies.txt").write_text(line("b"))
    assert copy_cookies(order) == copy
    assert copy.read_text().splitlines() == [HEADER, line("b")]
