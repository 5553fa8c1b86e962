"""What an operator does beside its passes: it says that it lives, deletes old runs, and looks when
cookies expire.

No decision depends on it, so an error of the database only puts it off.
"""

import heapq
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path

import structlog

from enrollgate.common.cookies_file import NotCookies, last_expiry, parse_cookies, read_cookies
from enrollgate.database import Database, DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.history import PRUNE_LIMIT, prune
from enrollgate.database.operators import record_pass
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)
# Seconds between two writes of the operator's own row, at least.
SIGN_OF_LIFE_INTERVAL = 5.0
# Seconds until the next look for old runs, at least: when there may be more, and when not.
PRUNE_INTERVAL = (10.0, 600.0)
# Seconds between two looks at the cookies files; the files that are read, and the accounts that are
# shown, at most: those whose cookies expire first.
COOKIES_INTERVAL, COOKIES_FILES, COOKIES_ACCOUNTS = 600.0, 1000, 100
# An account is shown by the first digits of its file's name: docs/settings.md.
_COOKIES_NAME = re.compile(r"cookies(?:-([0-9a-f]{12})[0-9a-f]{20})?\.txt")


class Housekeeping:
    """The work after each pass. Call it from one thread.

    Parameters:
        about: what the operator's row says of its settings (`enrollgate_operators`).
        history: how long finished runs are kept.
        cookies_dir: the folder of the accounts' cookies files, if the operator sees it.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        database: Database,
        installation: str,
        *,
        about: Mapping[str, object],
        history: timedelta,
        cookies_dir: Path | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._installation = installation
        self._about = about
        self._history = history
        self._cookies_dir = cookies_dir
        self._monotonic = monotonic
        # When the next of each is due. Nothing was recorded by this process before the first one.
        self._record_at = self._prune_at = self._look_at = -math.inf

    def after_pass(self, seconds: float) -> None:
        """Do what is due after a pass that took so many seconds."""
        now = self._monotonic()
        if self._cookies_dir is not None and now >= self._look_at:
            self._look_at = now + COOKIES_INTERVAL
            metrics.COOKIES_EXPIRY.clear()
            for account, expiry in read_expiries(self._cookies_dir).items():
                metrics.COOKIES_EXPIRY.labels(account).set(expiry)
        try:
            if now >= self._record_at:
                values = {**self._about, "pass_seconds": seconds}
                is_first = self._record_at == -math.inf
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


def read_expiries(folder: Path) -> dict[str, float]:
    """Return when the last cookie of each account's file expires, in seconds since 1970.

    An account is named by the first 12 digits of its file's name; `default` is the file of all
    other accounts. Files that cannot be read are for `enrollgate doctor`. Cookies that end with the
    browser's session have no expiry.
    """
    found = dict[str, float]()
    try:
        files = [each for each in islice(folder.iterdir(), COOKIES_FILES) if each.is_file()]
    except OSError:
        return found
    for file in files:
        if name := _COOKIES_NAME.fullmatch(file.name):
            try:
                last = last_expiry(parse_cookies(read_cookies(file))[0])
            except (OSError, NotCookies):
                continue
            if last < math.inf:
                found[name[1] or "default"] = last
    return dict(heapq.nsmallest(COOKIES_ACCOUNTS, found.items(), key=lambda each: each[1]))
