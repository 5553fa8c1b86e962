"""Read the progress of the live runs, and store it where Node.js and people see it.

    runs that are live ─▶ launcher: one after the other ─▶ what has changed ─▶ one statement

It has a thread of its own, so it delays no pass, and no decision depends on it. It asks the API
server for a few logs a second at most, however many runs there are: with many runs, each one's
progress is older. While nobody runs, it asks nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from enrollgate.common.redaction import redact
from enrollgate.database import Database, DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.progress import BATCH, load_live, store
from enrollgate.domain.progress import RunProgress
from enrollgate.launchers import Launcher, LauncherUnavailable
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)
# Seconds between two rounds, and between two statements that store progress. Local progress must
# be at most 3 seconds old, and a worker writes it every second.
INTERVAL = 1.5
# Seconds to wait after an error.
_PAUSE = 10.0


class ProgressReader:
    """Reads the progress of one installation's runs, round after round.

    Parameters:
        rate: requests to the API server a second, at most; 0: do not read progress at all.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        database: Database,
        installation: str,
        *,
        rate: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._installation = installation
        self._rate = rate
        self._monotonic = monotonic
        self._is_over = threading.Event()
        self._has_runs = threading.Event()
        self._next_request = 0.0
        self._logged = ""

    def set_live(self, count: int) -> None:
        """Take the number of unfinished runs, after each pass."""
        if count:
            self._has_runs.set()
        else:
            self._has_runs.clear()

    @contextmanager
    def followed(self, launcher: Launcher) -> Iterator[None]:
        """Read progress in a thread, until the end of the block."""
        self._is_over.clear()
        thread = threading.Thread(
            target=self._read_on, args=(launcher,), name="progress", daemon=True
        )
        if self._rate > 0:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._has_runs.set()  # it may wait for that
            if self._rate > 0:
                thread.join()

    def _read_on(self, launcher: Launcher) -> None:
        while not self._is_over.is_set():
            self._has_runs.wait()
            if self._is_over.is_set():
                return
            pause = INTERVAL
            try:
                self.read_round(launcher)
                self._logged = ""
            except (DatabaseUnavailable, DatabaseMisconfigured, LauncherUnavailable) as error:
                pause = _PAUSE
                cause = f"{type(error).__name__}: {redact(str(error), 300)}"
                log = _LOG.warning if cause != self._logged else _LOG.debug
                log("progress is not read now", error=cause)
                self._logged = cause
            except Exception as error:  # noqa: BLE001 -- no pass and no run depends on progress
                pause = _PAUSE
                _LOG.error("an unexpected error while progress was read", exc_info=error)
            self._is_over.wait(pause)

    def read_round(self, launcher: Launcher) -> None:
        """Read the progress of each live run once, and store what has changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable.
        """
        live = {
            run.name: run for run in load_live(self._database, self._installation, launcher.place)
        }
        changed, begun = dict[int, RunProgress](), 0
        stored_at = self._monotonic()

        def store_changed() -> None:
            nonlocal begun, stored_at
            if changed:
                store(self._database, changed)
                metrics.ATTEMPTS.inc(begun)
                changed.clear()
                begun, stored_at = 0, self._monotonic()

        for name, progress in launcher.read_progress(list(live), self._wait_for_turn):
            before = live[name].progress
            if progress != before:
                changed[live[name].run_id] = progress
                begun += max(0, progress.attempt - (before.attempt if before else 0))
            if self._monotonic() - stored_at >= INTERVAL or len(changed) >= BATCH:
                store_changed()
        store_changed()

    def _wait_for_turn(self) -> bool:
        """Wait until another request may be sent. Return False if there shall be none."""
        now = self._monotonic()
        turn = max(now, self._next_request)
        self._next_request = turn + 1 / self._rate
        return not self._is_over.wait(turn - now)
