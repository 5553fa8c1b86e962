import json
from typing import Any

import pytest

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.launchers.local.exit_result import (
    ExitResult,
    Interruption,
    RunResult,
    parse_report,
    result_of,
)

DONE = Report(None, "3 items", items_delivered=3)
DENIED = Report(Reason.ACCESS_DENIED, "not enrolled")
HALF = Report(Reason.STOPPED, "asked to end", items_delivered=2, bytes_delivered=77)

# exit code, report, interruption -> succeeded, reason, part of the message; None: no result
CASES: list[
    tuple[int | None, Report | None, Interruption | None, tuple[bool, Reason | None, str] | None]
] = [
    (0, DONE, None, (True, None, "3 items")),
    (0, None, None, (True, None, "left no report")),
    (0, DONE, Interruption.STOPPED, (True, None, "3 items")),
    (0, DONE, Interruption.DEADLINE, (True, None, "3 items")),
    (0, DONE, Interruption.SHUTDOWN, (True, None, "3 items")),
    (69, DENIED, None, (False, Reason.ACCESS_DENIED, "not enrolled")),
    (69, None, None, (False, Reason.WORKER_CRASHED, "ended with exit code 69 without a report")),
    (
        1,
        DONE,
        None,
        (False, Reason.WORKER_CRASHED, "ended with exit code 1 although it reported success"),
    ),
    (
        -9,
        None,
        None,
        (False, Reason.WORKER_CRASHED, "killed by SIGKILL (out of memory, or by hand)"),
    ),
    (-11, None, None, (False, Reason.WORKER_CRASHED, "killed by SIGSEGV")),
    (-250, None, None, (False, Reason.WORKER_CRASHED, "killed by signal 250")),
    (None, None, None, (False, Reason.WORKER_CRASHED, "could not be started: no such file")),
    (75, HALF, Interruption.STOPPED, (False, Reason.STOPPED, "asked to end")),
    (69, DENIED, Interruption.STOPPED, (False, Reason.ACCESS_DENIED, "not enrolled")),
    (-15, None, Interruption.STOPPED, (False, Reason.STOPPED, "the run was stopped")),
    (
        75,
        HALF,
        Interruption.DEADLINE,
        (False, Reason.DEADLINE_EXCEEDED, "longer than its time limit of 90 s"),
    ),
    (
        -9,
        None,
        Interruption.DEADLINE,
        (False, Reason.DEADLINE_EXCEEDED, "longer than its time limit of 90 s"),
    ),
    (75, HALF, Interruption.SHUTDOWN, None),
    (None, None, Interruption.SHUTDOWN, None),
]


@pytest.mark.parametrize(("code", "report", "interruption", "expected"), CASES)
def test_result_of_exit_code_decides_and_report_explains(
    code: int | None,
    report: Report | None,
    interruption: Interruption | None,
    expected: tuple[bool, Reason | None, str] | None,
) -> None:
    result = result_of(
        ExitResult(code, report, "no such file" if code is None else ""), 2, interruption, 90.0
    )
    if expected is None:
        assert result is None
        return
    assert result is not None
    succeeded, reason, message = expected
    assert (result.succeeded, result.report.reason, result.attempts) == (succeeded, reason, 2)
    assert message in result.report.message


def test_result_of_deadline_keeps_the_delivered_counts() -> None:
    result = result_of(ExitResult(75, HALF), 1, Interruption.DEADLINE, 90.0)
    assert result is not None
    assert (result.report.items_delivered, result.report.bytes_delivered) == (2, 77)


def test_result_of_crash_has_the_last_log_line() -> None:
    result = result_of(
        ExitResult(1, None, "ModuleNotFoundError: No module named 'x'"), 1, None, 90.0
    )
    assert result is not None
    assert "No module named 'x'" in result.report.message


def test_run_result_round_trip_is_equal() -> None:
    result = RunResult(False, DENIED, 3)
    assert RunResult.decode(result.encode()) == result


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "null",
        "[]",
        "{}",
        "\0\0\0",
        '{"succeeded": true}',
        "[" * 100_000,
        '{"succeeded":"yes","attempts":1,"report":{}}',
    ],
)
def test_decode_damaged_result_raises_value_error(damage: str) -> None:
    with pytest.raises(ValueError, match="not a result"):
        RunResult.decode(damage)


@pytest.mark.parametrize(
    "change", [{"succeeded": 3}, {"attempts": "many"}, {"report": {"reason": 5}}]
)
def test_decode_result_with_wrong_values_raises_value_error(change: dict[str, Any]) -> None:
    raw = json.loads(RunResult(True, DONE, 1).encode()) | change
    with pytest.raises(ValueError, match="not a result"):
        RunResult.decode(json.dumps(raw))


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "[" * 100_000, '{"reason": 5, "message": ""}']
)
def test_parse_report_when_not_a_report_returns_none(text: str | None) -> None:
    assert parse_report(text) is None
