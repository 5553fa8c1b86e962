"""Retry-After is a number of seconds or a date."""

import pytest

from enrollgate.common.retry_after import retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 120.0),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", 120.0),
        ("Wed Oct 21 07:28:00 2026", 120.0),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0.0),
        ("9" * 400, 30 * 86400.0),
        ("soon", None),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:00 +99999999999999", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_server_s_clock(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after(header, "Wed, 21 Oct 2026 07:26:00 GMT") == seconds


def test_a_date_is_ignored_without_the_server_s_clock() -> None:
    assert retry_after("Wed, 21 Oct 2026 07:28:00 GMT", None) is None
