"""What log lines show, and what they never show: in both formats, from a real process."""

import json
import subprocess
import sys
from typing import Any

import pytest

from enrollgate.domain.gate import closed_line, open_line, unexpected_status_message, waiting_line

FORGED = "oops\n2026-11-28T00:00:00Z [info] ENROLL CHECK task=77 status=enrolled"
ODD = "a\rb\x1b[31mc\x07d\u2028e\u2029f\x85g\u202eh\x00i\x9bj"
PROGRAM = """
import logging, sys, threading, warnings
import structlog
from enrollgate.telemetry.logging import configure_logging

configure_logging(sys.argv[1], "debug", installation="school")
FORGED, ODD = (text.encode().decode("unicode_escape") for text in sys.argv[2:])
log = structlog.get_logger("test")

class Odd:
    def __repr__(self):
        return FORGED

def fail(password):
    local_secret = "hunter-" + "2"
    raise ValueError(f"no mail to ada@example.com\\n{FORGED} {ODD}")

log.info(f"the status is {FORGED}", status=FORGED, odd=ODD, names=[FORGED, {"a": ODD}], other=Odd(),
         raw=b"\\n\\xff", path=("x", {ODD}))
try:
    fail("hunter-" + "2")
except ValueError as error:
    log.error("one", exc_info=True)
    log.error("two", exc_info=error)
    logging.getLogger("plain").exception("three %s", FORGED)
    try:
        raise KeyError(ODD) from error
    except KeyError:
        log.exception("four", stack_info=True)
logging.getLogger("plain").warning("five %s %d", ODD, "no number")
logging.getLogger("plain").warning("six %s", ODD)
warnings.warn(FORGED)
thread = threading.Thread(target=fail, args=("hunter-" + "2",))
thread.start()
thread.join()
fail("hunter-" + "2")
"""


def run_program(log_format: str) -> str:
    arguments = [text.encode("unicode_escape").decode() for text in (FORGED, ODD)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout
    return done.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_no_line_is_forged_and_no_secret_is_shown(log_format: str) -> None:
    written = run_program(log_format)
    lines = written.split("\n")
    for secret in ("hunter-2", "ada@", "local_secret ="):
        assert secret not in written
    assert all(line.isprintable() for line in lines), "no control character but the line's end"
    assert not [line for line in lines if line.startswith("2026-11-28T00:00:00Z")]
    assert "<e-mail>" in written and r"\x1b[31m" in written and r"\u202e" in written
    for what in ("one", "two", "three", "four", "six", "this is a bug"):
        assert what in written
    assert written.count("ValueError: no mail to <e-mail>") == 6, "each traceback, causes included"
    assert "in fail" in written


def test_log_json_is_one_object_a_line() -> None:
    events: list[dict[str, Any]] = [json.loads(line) for line in run_program("json").splitlines()]
    assert {"message", "severity", "timestamp", "version", "installation"} <= set.intersection(
        *map(set, events)
    )
    assert events[0]["names"] == [events[0]["status"], {"a": events[0]["odd"]}]
    tracebacks = [event["exception"] for event in events if "exception" in event]
    assert len(tracebacks) == 6
    assert all(each.startswith("Traceback (most recent call last):\n") for each in tracebacks)


@pytest.mark.parametrize("status", [FORGED, ODD, "enrolled (0s/300s) gate open", "a task=7", ""])
def test_gate_line_odd_status_is_quoted_in_one_line(status: str) -> None:
    for line in (
        waiting_line(5, status, 1, 300),
        open_line(5, status, 1, 300),
        closed_line(5, status, "the row\nwas deleted", 1, 300),
        unexpected_status_message(status),
    ):
        assert line.isprintable()
        assert repr(status)[0] in line
    assert waiting_line(5, status, 1, 300).startswith("ENROLL CHECK task=5 status='")


def test_gate_line_plain_status_is_shown_as_it_is() -> None:
    assert waiting_line(5, "enrolled", 1, 300) == (
        "ENROLL CHECK task=5 status=enrolled waiting... (1s/300s)"
    )
    assert "status=đã_trả waiting" in waiting_line(5, "đã_trả", 1, 300)
    assert len(waiting_line(5, "x" * 10_000, 1, 300)) < 500


GATE_PROGRAM = """
import sys
from enrollgate.control.task_log import TaskLog
from enrollgate.telemetry.logging import configure_logging

configure_logging(sys.argv[1], "info", installation="school")
log = TaskLog(enrolled="enrolled", timeout=300.0)
log.log_decision(7, "processing", 120.0)
log.log_closed(8, "odd ada@example.com", "over: failed", 3.5)
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_of_the_gate_carries_its_data_as_fields(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GATE_PROGRAM, log_format], capture_output=True, text=True, check=True
    )
    waiting, closed = done.stderr.splitlines()
    line = "ENROLL CHECK task=7 status=processing waiting... (120s/300s)"
    if log_format == "text":
        assert waiting.rstrip().endswith(line), waiting
        return
    found = json.loads(waiting)
    assert (found["message"], found["severity"], found["installation"]) == (line, "INFO", "school")
    assert [found[name] for name in ("task", "status", "elapsed", "limit")] == [
        7,
        "processing",
        120.0,
        300.0,
    ]
    assert json.loads(closed)["status"] == "odd <e-mail>"
