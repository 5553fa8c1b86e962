"""Count how a run's items ended, and choose the failure of the run.

The pipeline counts here; `work` makes the report of it. Separate from the pipeline because it needs
no threads: it is plain data and two functions of it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from enrollgate.domain.reasons import Failure, Reason, explain
from enrollgate.domain.report import FailedItem, LeftOutItem
from enrollgate.worker.course import Delivered, Item, LoginRequired


@dataclass
class RunStats:
    """Counts of one attempt so far."""

    delivered: int = 0
    skipped: int = 0
    bytes_delivered: int = 0
    failures: list[tuple[Item, Failure]] = field(default_factory=list)
    # What is at the destination, and what is left out on purpose.
    present: list[tuple[Item, Delivered]] = field(default_factory=list)
    left_out: list[Item] = field(default_factory=list)
    fatal: Failure | None = None  # the first failure that ended the run

    @property
    def seen(self) -> int:
        """Return the number of items that are dealt with."""
        return self.delivered + self.skipped + len(self.failures)

    def set_fatal(self, failure: Failure) -> None:
        """Record what ends the run. The first failure counts."""
        self.fatal = self.fatal or failure

    def accept(self, reasons: Collection[str], *, is_last_attempt: bool) -> None:
        """Leave out the failed items whose reasons are accepted.

        A failure that a retry can help is accepted in the last attempt only. Nothing is accepted of
        a run that ended early, or of a course of which nothing is at the destination.
        """
        if self.fatal is not None or not self.delivered + self.skipped:
            return
        failures = list[tuple[Item, Failure]]()
        for item, failure in self.failures:
            is_final = is_last_attempt or not explain(failure.reason).retry_can_help
            if failure.reason in reasons and is_final:
                why = f"{failure.reason}: {failure.message}"
                self.left_out.append(replace(item, left_out=why))
            else:
                failures.append((item, failure))
        self.failures = failures

    def left_out_items(self) -> tuple[LeftOutItem, ...]:
        """Return the items that are left out as the report names them, in the course's order."""
        items = sorted(self.left_out, key=lambda item: (item.index, item.part))
        return tuple(LeftOutItem(item.title, item.left_out) for item in items)

    def failed_items(self) -> tuple[FailedItem, ...]:
        """Return the failed items as the report names them, in the course's order."""
        failures = sorted(self.failures, key=lambda pair: (pair[0].index, pair[0].part))
        return tuple(
            FailedItem(item.title, failure.reason, failure.message) for item, failure in failures
        )


def overall_failure(stats: RunStats) -> Failure | None:
    """Choose the failure that stands for the run. None: the course is complete.

    What ended the run comes first. Next comes the first failure that a retry can fix, so that there
    is a retry. Else it is the first failure.
    """
    if stats.fatal is not None:
        return stats.fatal
    if stats.seen == 0:
        return Failure(Reason.EMPTY_COURSE, "the course lists no item that can be downloaded")
    if not stats.failures:
        return None
    retryable = [pair for pair in stats.failures if explain(pair[1].reason).retry_can_help]
    item, failure = (retryable or stats.failures)[0]
    count = len(stats.failures)
    others = f" (and {count - 1} more)" if count > 1 else ""
    message = f"{count} of {stats.seen} items failed: {item.title!r}: {failure.message}{others}"
    reason = failure.reason
    # One locked lecture says nothing of the others. If the site wants a login for each, the account
    # has no valid cookies.
    logins = [each for _, each in stats.failures if isinstance(each, LoginRequired)]
    if len(logins) == stats.seen:
        reason = logins[0].course_reason
    return Failure(reason, message, remedy=failure.remedy, retry_after=failure.retry_after)
