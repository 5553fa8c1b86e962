"""What writes Events does not stop doing so without a word."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers.kubernetes.events import EventRecorder


class Api:
    """Breaks at the first Event in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.is_broken = True

    def request(self, _method: str, _path: str, *, body: Any) -> None:
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("a bug")
        self.written.append(body["message"])


def test_a_writer_that_died_is_begun_anew_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: died.set())
    api = Api()
    with capture_logs() as logs:
        narrator = EventRecorder(api, "courses", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]  # of an Api, what Events need
        narrator.record_event("school-1-1", "u", RunEvent(RunEventType.LAUNCHED, "lost"))
        assert died.wait(60)
        for thread in threading.enumerate():
            if thread.name == "events":
                thread.join(60)
        narrator.record_event("school-2-1", "u", RunEvent(RunEventType.LAUNCHED, "kept"))
        narrator.close()
    assert api.written == ["kept"]
    assert ["begun anew" in entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        True
    ]
