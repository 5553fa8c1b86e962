"""If the thread that writes Events crashes, the log says so and a new thread continues."""

import threading
import time
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from structlog.testing import capture_logs

from enrollgate.domain.run_event import HoldEvent, RunEvent, RunEventType
from enrollgate.launchers.kubernetes.events import EventRecorder


class CrashingApi:
    """Raises an unexpected error for the first Event."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.is_broken = True

    def request(self, _method: str, _path: str, *, body: Any) -> None:
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("a bug")
        self.written.append(body["message"])


def test_a_crashed_writer_is_restarted_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    api = CrashingApi()
    with capture_logs() as logs:
        recorder = EventRecorder(
            api,  # type: ignore[arg-type]  # only `request` is used
            "courses",
            clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )
        crashed = recorder.writer
        recorder.record_event("school-1-1", "u", RunEvent(RunEventType.LAUNCHED, "lost"))
        crashed.join(60)
        assert not crashed.is_alive()
        recorder.record_event("school-2-1", "u", RunEvent(RunEventType.LAUNCHED, "kept"))
        recorder.close()
        recorder.writer.join(60)
    assert api.written == ["kept"]
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert len(errors) == 1 and "has crashed and is restarted" in errors[0]


class RecordingApi:
    """Knows one Deployment, and keeps the Events."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def request(self, method: str, path: str, *, body: Any = None) -> dict[str, Any]:
        if method == "GET":
            assert path == "/apis/apps/v1/namespaces/courses/deployments/school"
            return {"metadata": {"uid": "uid-1"}}
        self.written.append(body)
        return {}


def test_event_of_a_hold_is_attached_to_the_deployment() -> None:
    api = RecordingApi()
    recorder = EventRecorder(
        api,  # type: ignore[arg-type]  # only `request` is used
        "courses",
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    for is_pause, is_open in ((False, True), (False, False), (True, True)):
        recorder.record_hold("school", HoldEvent(is_pause, is_open, "for ada@example.com"))
    recorder.close()
    recorder.writer.join(60)
    assert [(event["type"], event["reason"]) for event in api.written] == [
        ("Warning", "HoldOpened"),
        ("Normal", "HoldClosed"),
        ("Normal", "Paused"),
    ]
    assert api.written[0]["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "school",
        "namespace": "courses",
        "uid": "uid-1",
    }
    assert api.written[0]["message"] == "for <e-mail>"


def test_events_are_written_though_launches_never_end() -> None:
    api, now = RecordingApi(), count(step=10.0)
    recorder = EventRecorder(
        api,  # type: ignore[arg-type]  # only `request` is used
        "courses",
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        monotonic=lambda: next(now),
    )
    recorder.pause()
    recorder.record_event("school-1-1", "u", RunEvent(RunEventType.LAUNCHED, "launched"))
    while not api.written:
        time.sleep(0.01)
    recorder.close()
    assert [event["message"] for event in api.written] == ["launched"]
