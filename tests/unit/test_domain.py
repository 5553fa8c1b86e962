"""The small pure parts: reasons, reports, redaction, account names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.common.redaction import redact
from enrollgate.domain.account import DEFAULT_COOKIES_NAME, cookies_name
from enrollgate.domain.reasons import (
    EXIT_PERMANENT,
    EXIT_RETRYABLE,
    EXIT_SUCCEEDED,
    EXIT_UNEXPECTED,
    EXPLANATIONS,
    PERMANENT_EXIT_CODES,
    Failure,
    Reason,
    exit_code,
    explain,
)
from enrollgate.domain.report import REPORT_LIMIT, FailedItem, MalformedReport, Report
from enrollgate.domain.run import run_name


def test_every_reason_has_a_meaning_and_a_remedy() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    for explanation in EXPLANATIONS.values():
        assert explanation.means.endswith(".") and explanation.remedy.endswith(".")


@pytest.mark.parametrize("reason", Reason)
def test_exit_code_says_whether_a_retry_can_help(reason: Reason) -> None:
    assert (exit_code(reason) not in PERMANENT_EXIT_CODES) == explain(reason).retry_can_help


def test_exit_codes_are_the_documented_ones() -> None:
    assert exit_code(None) == EXIT_SUCCEEDED == 0
    assert exit_code(Reason.WORKER_CRASHED) == EXIT_UNEXPECTED == 1
    assert exit_code(Reason.ACCESS_DENIED) == EXIT_PERMANENT == 69
    assert exit_code(Reason.NETWORK_ERROR) == EXIT_RETRYABLE == 75


@given(
    message=st.text(max_size=6000),
    items=st.lists(
        st.tuples(st.text(max_size=500), st.sampled_from(Reason), st.text(max_size=500)),
        max_size=40,
    ),
    url=st.text(max_size=3000),
)
def test_report_fits_a_termination_message_and_can_be_decoded(
    message: str, items: list[tuple[str, Reason, str]], url: str
) -> None:
    failed = tuple(FailedItem(*item) for item in items)
    report = Report(
        Reason.SITE_ERROR,
        message,
        items_failed=len(items),
        destination_url=url,
        failed_items=failed,
    )
    encoded = report.encode()
    assert len(encoded.encode()) <= REPORT_LIMIT
    decoded = Report.decode(encoded)
    assert (decoded.reason, decoded.items_failed) == (Reason.SITE_ERROR, len(items))


def test_shortened_report_says_how_many_failed_items_are_not_named() -> None:
    items = tuple(FailedItem(f"L{n}", Reason.SITE_ERROR, "503") for n in range(25))
    report = Report(Reason.SITE_ERROR, "25 of 30 items failed", items_failed=25, failed_items=items)
    decoded = Report.decode(report.encode())
    assert len(decoded.failed_items) == 10
    assert (
        decoded.message
        == "25 of 30 items failed; 15 failed items are not named here, only in the worker's log"
    )
    few = Report(Reason.SITE_ERROR, "2 of 30 items failed", items_failed=2, failed_items=items[:2])
    assert Report.decode(few.encode()).message == few.message


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"reason":"Nonsense"}', "\x00\xff", '{"x":1}']
)
def test_malformed_report_is_refused(text: str) -> None:
    with pytest.raises(MalformedReport, match="not a worker's report"):
        Report.decode(text)


def test_secrets_are_redacted() -> None:
    text = "GET https://user:pw@host.example/a.mp4?token=abc#x for ada.l+x@example.co.uk failed"
    assert redact(text) == "GET https://host.example/a.mp4?... for <e-mail> failed"


@given(st.emails())
def test_cookies_name_never_contains_the_email(email: str) -> None:
    name = cookies_name(email)
    assert len(name) <= 253 and email not in name and name != DEFAULT_COOKIES_NAME
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert cookies_name(f"  {email.upper()} ") == cookies_name(email.upper())


def test_cookies_name_follows_the_documented_rule() -> None:
    # printf %s ada@example.com | sha256sum | cut -c1-32
    assert cookies_name(" Ada@Example.com ") == cookies_name("ada@example.com")
    assert cookies_name("ada@example.com") == "cookies-b5fc85e55755f9e0d030a10ab4429b6b.txt"


def test_failure_as_text_has_its_reason_and_message() -> None:
    failure = Failure(Reason.RATE_LIMITED, "HTTP 429", retry_after=7)
    assert str(failure) == "RateLimited: HTTP 429" and failure.retry_after == 7


def test_run_name_follows_from_task_and_run_number() -> None:
    assert run_name("enrollgate", 7, 2) == "enrollgate-7-2"


def test_report_is_plain_json_that_node_can_read() -> None:
    data = json.loads(Report(None, "done", items_delivered=3, destination_url="file:///x").encode())
    assert data["items_delivered"] == 3 and data["destination_url"] == "file:///x"
