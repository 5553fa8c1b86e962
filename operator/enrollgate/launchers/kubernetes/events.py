"""Kubernetes Events: of a run on its Job, and of holds on the operator's Deployment.

`kubectl describe job` shows that a run was launched, finished or stopped, and why.

In: one event of a run, with the Job's name and UID. Out: one `v1` Event in the namespace. Events
are for people, and no decision depends on them. So one background thread writes them. Launches and
results come first, for LONGEST_WAIT at most. A failed write is logged.
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from enrollgate.common.redaction import redact
from enrollgate.domain.run_event import HoldEvent, RunEvent
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, Json

_LOG = structlog.get_logger(__name__)
# Events that may wait to be written. Further Events are dropped.
QUEUE_LIMIT = 20_000
# Characters that the API server accepts as an Event's message.
MESSAGE_LIMIT = 1024
# Seconds without a launch or another Event before Events are written: all use the same API server.
QUIET_PERIOD = 0.5
# Seconds that an Event waits for that, at most.
LONGEST_WAIT = 30.0
# Seconds that `close` waits for the queue to empty.
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class _QueuedEvent:
    """An Event to write. Without a `uid`, that of the Deployment is asked for.

    `due` is when it is written at the latest, by the monotonic clock.
    """

    involved: Json
    is_warning: bool
    reason: str
    message: str
    time: datetime
    due: float

    @property
    def name(self) -> str:
        return str(self.involved["name"])

    def to_json(self, namespace: str, uid: str) -> Json:
        """Build the `v1` Event."""
        timestamp = self.time.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self.name}.", "namespace": namespace},
            "involvedObject": {**self.involved, "namespace": namespace, "uid": uid},
            "type": "Warning" if self.is_warning else "Normal",
            "reason": self.reason,
            "message": redact(self.message, MESSAGE_LIMIT),
            "source": {"component": "enrollgate"},
            "firstTimestamp": timestamp,
            "lastTimestamp": timestamp,
            "count": 1,
        }


class EventRecorder:
    """Writes Events in order, one at a time, from its own thread.

    `clock` returns the current time with its time zone; `monotonic` returns seconds.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._monotonic = monotonic
        self._queue = queue.Queue[_QueuedEvent | None](QUEUE_LIMIT)
        self._write_after = monotonic()
        self._closing = threading.Event()
        self.writer = self._start_writer()

    def _start_writer(self) -> threading.Thread:
        writer = threading.Thread(target=self._write_all, name="events", daemon=True)
        writer.start()
        return writer

    def record_event(self, job: str, uid: str, event: RunEvent) -> None:
        """Queue an Event for a Job."""
        involved = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
        self._put(involved, event.kind.value, event.message, is_warning=event.is_warning)

    def record_hold(self, deployment: str, event: HoldEvent) -> None:
        """Queue an Event for the operator's Deployment."""
        involved = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}
        is_warning = event.is_open and not event.is_pause
        self._put(involved, event.reason, event.message, is_warning=is_warning)

    def _put(self, involved: Json, reason: str, message: str, *, is_warning: bool) -> None:
        """Queue an Event. Restarts the writer thread if it has crashed."""
        now = self._monotonic()
        queued = _QueuedEvent(
            involved, is_warning, reason, message, self._clock(), due=now + LONGEST_WAIT
        )
        self._write_after = max(self._write_after, now + QUIET_PERIOD)
        if not self.writer.is_alive():
            _LOG.error(
                "the thread that writes Events has crashed and is restarted; this is a bug: "
                "report it with the traceback above",
                about=queued.name,
            )
            self.writer = self._start_writer()
        try:
            self._queue.put_nowait(queued)
        except queue.Full:
            _LOG.warning(
                "too many Events wait to be written; this one is dropped",
                about=queued.name,
                event=queued.reason,
            )

    def pause(self) -> None:
        """Write only what is due until `resume`: launches come first."""
        self._write_after = math.inf

    def resume(self) -> None:
        """Write again after a quiet period without launches."""
        self._write_after = self._monotonic() + QUIET_PERIOD

    def close(self) -> None:
        """Write what is queued, for a few seconds at most."""
        self._closing.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self.writer.join(_CLOSE_TIMEOUT)

    def _write_all(self) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/events"
        while (queued := self._queue.get()) is not None:
            while (
                seconds := min(self._write_after, queued.due) - self._monotonic()
            ) > 0 and not self._closing.is_set():
                self._closing.wait(min(seconds, QUIET_PERIOD))
            try:
                uid = str(queued.involved.get("uid") or self._find_uid(queued.name))
                self._api.request("POST", path, body=queued.to_json(self._namespace, uid))
            except (ApiError, LauncherUnavailable) as error:
                _LOG.warning(
                    "an Event could not be written",
                    about=queued.name,
                    error=redact(str(error), 300),
                )

    def _find_uid(self, deployment: str) -> str:
        """Return the UID of the operator's Deployment: `kubectl describe` selects Events by it."""
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{deployment}"
        metadata = self._api.request("GET", path).get("metadata")
        return str(metadata.get("uid", "")) if isinstance(metadata, dict) else ""
