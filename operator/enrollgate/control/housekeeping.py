"""What an operator does beside its passes: it says that it lives, and deletes old runs.

No decision depends on it, so an error of the database only puts it off.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from enrollgate.database import Database, DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.history import PRUNE_LIMIT, prune
from enrollgate.database.operators import record_pass

_LOG = structlog.get_logger(__name__)
# Seconds between two writes of the operator's own row, at least.
SIGN_OF_LIFE_INTERVAL = 5.0
# Seconds until the next look for old runs, at least: when there may be more, and when not.
PRUNE_INTERVAL = (10.0, 600.0)


class Housekeeping:
    """The work after each pass. Call it from one thread.

    Parameters:
        about: what the operator's row says of its settings (`enrollgate_operators`).
        history: how long finished runs are kept.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        database: Database,
        installation: str,
        *,
        about: Mapping[str, object],
        history: timedelta,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._installation = installation
        self._about = about
        self._history = history
        self._monotonic = monotonic
        # When the next of each is due. Nothing was recorded by this process before the first one.
        self._record_at = self._prune_at = float("-inf")

    def after_pass(self, seconds: float) -> None:
        """Do what is due after a pass that took so many seconds."""
        now = self._monotonic()
        try:
            if now >= self._record_at:
                values = {**self._about, "pass_seconds": seconds}
                is_first = self._record_at == float("-inf")
                record_pass(self._database, self._installation, values, is_first=is_first)
                self._record_at = now + SIGN_OF_LIFE_INTERVAL
            if now >= self._prune_at:
                pruned = prune(self._database, self._history)
                self._prune_at = now + PRUNE_INTERVAL[pruned < PRUNE_LIMIT]
                if pruned:
                    _LOG.info("old runs were deleted", runs=pruned)
        except (DatabaseUnavailable, DatabaseMisconfigured) as error:
            # The next pass meets the same error, if it concerns the passes.
            _LOG.debug("housekeeping is put off", error=str(error))
