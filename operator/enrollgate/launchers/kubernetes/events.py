"""Kubernetes Events on a run's Job, so that `kubectl describe job` tells its story: launched, how it ended, why it was stopped.

Events are for people: they are written by a thread of their own, after the launches, and losing one loses nothing else.
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
from enrollgate.domain.run_event import RunEvent
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, Json

_LOG = structlog.get_logger(__name__)
QUEUE_LIMIT = 20_000
"""Stories that may wait to be written; more are dropped."""
MESSAGE_LIMIT = 1024
"""Characters that the API server accepts as an Event's message."""
QUIET = 0.5
"""Seconds that launches must have been over before Events are written: they compete for the same API server."""
_PATIENCE = 5.0
"""Seconds that closing waits for the last stories."""


@dataclass(frozen=True, slots=True)
class _Telling:
    job: str
    uid: str
    event: RunEvent
    at: datetime


class EventRecorder:
    """Writes stories as Events, in order, one at a time. `monotonic` gives seconds, `clock` the present moment."""

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
        self._told = queue.Queue[_Telling | None](QUEUE_LIMIT)
        self._monotonic = monotonic
        self._quiet_from = monotonic()
        self._is_closing = threading.Event()
        self._thread = self._begin()

    def _begin(self) -> threading.Thread:
        thread = threading.Thread(target=self._write_all, name="events", daemon=True)
        thread.start()
        return thread

    def record_event(self, job: str, uid: str, event: RunEvent) -> None:
        """Queues a story for a Job. A writer that has died of something unforeseen is replaced, and the log says so."""
        if not self._thread.is_alive():
            _LOG.error(
                "what writes Events has died and is begun anew: this is a bug; its traceback is above",
                run=job,
            )
            self._thread = self._begin()
        try:
            self._told.put_nowait(_Telling(job, uid, event, self._clock()))
        except queue.Full:
            _LOG.warning(
                "too many Events wait to be written; this one is dropped",
                run=job,
                event=event.kind.value,
            )

    def hold(self) -> None:
        """Writes nothing until `release`: launches come first."""
        self._quiet_from = math.inf

    def release(self) -> None:
        """Goes on writing, once nothing has been launched for a moment."""
        self._quiet_from = self._monotonic() + QUIET

    def close(self) -> None:
        """Writes what is queued, for a few seconds at most."""
        self._is_closing.set()
        try:
            self._told.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_PATIENCE)

    def _write_all(self) -> None:
        while (telling := self._told.get()) is not None:
            self._wait_for_quiet()
            try:
                self._api.request(
                    "POST",
                    f"/api/v1/namespaces/{self._namespace}/events",
                    body=self._event(telling),
                )
            except (ApiError, LauncherUnavailable) as error:
                _LOG.warning(
                    "an Event could not be written", run=telling.job, error=redact(str(error), 300)
                )

    def _wait_for_quiet(self) -> None:
        while (pause := self._quiet_from - self._monotonic()) > 0 and not self._is_closing.is_set():
            self._is_closing.wait(min(pause, QUIET))

    def _event(self, telling: _Telling) -> Json:
        at = telling.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": f"{telling.job}.",
                "namespace": self._namespace,
            },
            "involvedObject": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": telling.job,
                "namespace": self._namespace,
                "uid": telling.uid,
            },
            "type": "Warning" if telling.event.is_warning else "Normal",
            "reason": telling.event.kind.value,
            "message": redact(telling.event.message, MESSAGE_LIMIT),
            "source": {"component": "enrollgate"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
