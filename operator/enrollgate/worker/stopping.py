"""Decide when failed downloads say that the site as a whole fails.

One broken lecture says nothing of the next: all others are tried. If several fail in a row, the
course's page is asked again. If that fails, too, the site is left in peace. If the page is fine,
the run goes on. Pure data, since the pipeline's threads share it under a lock of their own.
"""

from dataclasses import dataclass
from enum import Enum

from enrollgate.domain.reasons import Failure, Reason, explain
from enrollgate.worker.course import LoginRequired

# After so many failures in a row the course's page is asked, and again after twice as many.
CHECK_AFTER = 5
# So many failures in a row that are not about single lectures end the attempt, although the
# course's page is fine: the server of the media may be another one.
STOP_AFTER = 20


class Action(Enum):
    """What to do after a download."""

    CONTINUE = "continue"
    # Ask the course's page whether the site still works.
    CHECK = "check"
    # Request nothing more in this attempt.
    STOP = "stop"


@dataclass
class FailureStreak:
    """The downloads that failed one after the other, up to now."""

    length: int = 0
    # Those that are about the site or the session: a retry can help, or it asked for a login.
    about_site: int = 0
    _was_login_checked: bool = False

    def record(self, failure: Failure | None) -> Action:
        """Count one download (None: it succeeded) and return what to do."""
        is_login = isinstance(failure, LoginRequired)
        if failure is None or not (
            is_login
            or failure.reason is Reason.ACCESS_DENIED
            or explain(failure.reason).retry_can_help
        ):
            self.length = self.about_site = 0
            return Action.CONTINUE
        self.length += 1
        # A refused lecture may be locked, and many may be: they never end the attempt.
        self.about_site += failure.reason is not Reason.ACCESS_DENIED
        if self.about_site >= STOP_AFTER:
            return Action.STOP
        is_first_login = is_login and not self._was_login_checked
        self._was_login_checked |= is_login
        times, rest = divmod(self.length, CHECK_AFTER)
        is_due = rest == 0 and times & (times - 1) == 0  # 5, 10, 20, 40 ...
        return Action.CHECK if is_first_login or is_due else Action.CONTINUE


def explain_stop(failure: Failure, count: int) -> Failure:
    """Return the failure of an attempt that ends because of `count` failures in a row."""
    message = f"{count} items in a row failed, the last one: {failure.message}"
    return Failure(failure.reason, message, remedy=failure.remedy, retry_after=failure.retry_after)


def explain_check(failure: Failure) -> Failure:
    """Return the failure of an attempt whose course page, once granted, now fails as well."""
    if isinstance(failure, LoginRequired):
        return failure.of_course()
    reason, message = failure.reason, f"the site fails as a whole: {failure.message}"
    if reason is Reason.ACCESS_DENIED:
        # It was granted when the course was listed.
        reason, message = Reason.RATE_LIMITED, "the site refuses all requests after the first ones"
    return Failure(reason, message, remedy=failure.remedy, retry_after=failure.retry_after)
