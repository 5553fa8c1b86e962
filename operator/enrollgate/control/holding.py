"""Opens, changes and closes holds as `domain.holds` decides, and fails what they held too long.

A hold is opened before the failure that opens it is recorded. So no crash loses it, and the run's
name in it tells that failure from those that come after it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from enrollgate.control.confinement import Confinement
from enrollgate.control.task_log import TaskLog
from enrollgate.database import Database, Tables, tasks
from enrollgate.database import holds as rows
from enrollgate.database.backlog import Backlog
from enrollgate.database.holds import HoldsVersion
from enrollgate.domain.hold import Ended, Hold, HoldKind, Scope
from enrollgate.domain.holds import (
    REPEATED,
    SCOPES,
    after_failure,
    after_other_failure,
    after_success,
    count_in_a_row,
    failure,
    find_hold,
    find_subject,
    keep_enrolled,
    open_hold,
)
from enrollgate.domain.planner import Action, Record, Stop
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import ABOUT_COOKIES, Reason
from enrollgate.domain.run import Outcome
from enrollgate.domain.run_event import HoldEvent
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)


class Holding:
    """The open holds of this installation.

    `cookies_sha256` returns the digest of an account's cookies file, by the account's digest; None
    if there is none, or if the operator cannot see it. `announce` shows people what has changed.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        policy: Policy,
        confinement: Confinement,
        log: TaskLog,
        *,
        installation: str,
        cookies_sha256: Callable[[str], str | None] = lambda _account: None,
        announce: Callable[[HoldEvent], None] = lambda _event: None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._policy = policy.holds
        self._confinement = confinement
        self._log = log
        self._installation = installation
        self._cookies_sha256 = cookies_sha256
        self._announce = announce
        # The holds that were open after the last full pass; None before the first one.
        self._announced: dict[int, Hold] | None = None
        self._version: HoldsVersion | None = None
        # Whether tasks may be marked with holds that are closed by now.
        self._are_marks_due = True
        self.open: tuple[Hold, ...] = ()
        # The time of the last full pass.
        self.now = datetime.min  # noqa: DTZ901 -- UTC without a time zone, as in the database

    def load_if_changed(self, version: HoldsVersion) -> bool:
        """Read the open holds if they are not as they were read last. Return whether they were."""
        if version == self._version:
            return False
        self._load()
        self._version, self._are_marks_due = version, True
        return True

    def tend(self, seen: Backlog, now: datetime) -> bool:
        """Close what is over, fail what waited too long, and mark the tasks that are held.

        Return whether a part of it has reached its limit, so that another pass is due.
        """
        self.now = now
        if not self.load_if_changed(seen.holds) and self.open:
            self._load()  # another operator may have changed what they allow
        is_limited = False
        for hold in self.open:
            if self._has_new_cookies(hold):
                self._close(hold, now, "the cookies file is a new one")
            elif (hold.ends_at or hold.opened_at + timedelta(seconds=self._policy.limit)) <= now:
                if hold.kind is HoldKind.PAUSE:
                    self._close(hold, now, "its time is over")
                elif found := self._fail_held(hold, now):
                    is_limited |= found >= tasks.EXPIRY_LIMIT
                else:
                    self._close(hold, now, "ENROLLGATE_HOLD_LIMIT is over, and its tasks failed")
        if self.open or self._are_marks_due:
            marked = rows.mark_held(self._database, self._tables, self.open)
            self._are_marks_due = marked > 0
            is_limited |= marked >= rows.MARK_LIMIT
        metrics.show_holds(self.open)
        self._announce_changes({hold.hold_id: hold for hold in self.open})
        return is_limited

    def _announce_changes(self, found: dict[int, Hold]) -> None:
        """Announce the holds that were opened and closed since the last full pass, by anybody."""
        before = found if self._announced is None else self._announced
        self._announced = found
        for is_open, holds, others in ((False, before, found), (True, found, before)):
            for hold in (hold for hold_id, hold in holds.items() if hold_id not in others):
                is_pause = hold.kind is HoldKind.PAUSE
                what = f"{hold.kind} {hold.hold_id} of the {hold.scope}"
                if hold.scope is Scope.HOST:
                    what += f" {hold.subject}"
                why = f": {hold.message}" if hold.message else ""
                text = f"{what} ({hold.reason}) is {'open' if is_open else 'closed'}{why}"
                self._announce(HoldEvent(is_pause, is_open, text))

    def assess(self, actions: Iterable[Action], now: datetime) -> list[Action]:
        """Let holds follow from how these runs end. Return the actions, with the tasks kept
        enrolled whose failure belongs to a hold.
        """
        assessed = list[Action]()
        failed = list[tuple[Record | Stop, Ended]]()
        for action in actions:
            if isinstance(action, Record | Stop):
                assessed.append(action)
                with self._confinement.confined(action.run.task_id):
                    assessed[-1] = self._assess(action, failed, now)
            else:
                assessed.append(action)
        return assessed

    def _assess(
        self, action: Record | Stop, failed: list[tuple[Record | Stop, Ended]], now: datetime
    ) -> Action:
        run, reason = action.run, failure(action)
        mine = [
            hold
            for hold in self.open
            if hold.kind is HoldKind.HOLD and hold.covers(run.account, run.course_host)
        ]
        if isinstance(action, Record) and action.outcome is Outcome.SUCCEEDED:
            for hold in mine:
                self._change(hold, after_success(hold, run), now)
        if reason is None:
            return action
        if found := find_hold(mine, run, reason):
            self._change(found, after_failure(found, action, self._policy, now), now)
            is_opener = found.run_name == run.name and not self._policy.keeps_opener
            return action if is_opener else keep_enrolled(action)
        for hold in mine:
            self._change(hold, after_other_failure(hold, run, self._policy, now), now)
        if reason not in SCOPES or not self._policy.is_on:
            return action
        in_a_row = self._count_in_a_row(action, reason, failed) if reason in REPEATED else 1
        failed.append((action, Ended(run.task_id, Outcome.FAILED, reason.value)))
        if (new := open_hold(action, in_a_row, self._policy, now)) is None:
            return action
        if new.scope is Scope.ACCOUNT:
            new = replace(new, cookies_sha256=self._cookies_sha256(new.subject))
        if rows.insert_hold(self._database, new, self._installation):
            _LOG.warning(
                "a hold is opened: further runs wait until a probe run succeeds; "
                "`enrollgate holds` shows it",
                scope=new.scope.value,
                reason=new.reason,
                run=run.name,
                detail=new.message,
                probe_at=new.probe_at.isoformat() if new.probe_at else None,
            )
        self._load()
        self._are_marks_due = True
        return keep_enrolled(action) if self._policy.keeps_opener else action

    def _count_in_a_row(
        self, action: Record | Stop, reason: Reason, failed: list[tuple[Record | Stop, Ended]]
    ) -> int:
        """Return how many tasks of the scope failed so in a row: in this pass, and before it."""
        scope, task_id = SCOPES[reason], action.run.task_id
        if (subject := find_subject(scope, action.run)) is None:
            return 0
        in_pass = [
            ended for other, ended in reversed(failed) if find_subject(scope, other.run) == subject
        ]
        earlier = rows.last_ended(self._database, scope, subject, self._installation)
        return count_in_a_row([*in_pass, *earlier], reason, task_id)

    def _change(self, before: Hold, after: Hold, now: datetime) -> None:
        """Write what a hold allows from now on; close it if that is enough."""
        if after == before:
            return
        if after.allowed >= self._policy.enough:
            self._close(before, now, "runs succeed again")
        elif rows.update_hold(self._database, before, after):
            self.open = tuple(after if hold is before else hold for hold in self.open)
            _LOG.info(
                "a hold has changed",
                hold=after.hold_id,
                scope=after.scope.value,
                reason=after.reason,
                allowed_runs=after.allowed,
                probe_at=after.probe_at.isoformat() if after.probe_at else None,
            )
        else:
            self._load()

    def _close(self, hold: Hold, now: datetime, why: str) -> None:
        if rows.close_hold(self._database, hold, now):
            _LOG.info(
                f"a {hold.kind} is closed: {why}",
                hold=hold.hold_id,
                scope=hold.scope.value,
                reason=hold.reason,
            )
        self._load()
        self._are_marks_due = True

    def _load(self) -> None:
        self.open = rows.load_holds(self._database, self._installation)

    def _has_new_cookies(self, hold: Hold) -> bool:
        if hold.scope is not Scope.ACCOUNT or hold.reason not in ABOUT_COOKIES:
            return False
        found = self._cookies_sha256(hold.subject)
        return found is not None and found != hold.cookies_sha256

    def _fail_held(self, hold: Hold, now: datetime) -> int:
        """Fail tasks that were held until its end, EXPIRY_LIMIT at most. Return how many it found.

        Those whose rows are locked are left to the next pass.
        """

        def fail(task: tasks.TrackedTask) -> bool:
            installation = self._installation
            return tasks.fail_held(
                self._database, self._tables, task, hold, now, installation=installation
            )

        found = tasks.find_held(self._database, self._tables, hold, now, limit=tasks.EXPIRY_LIMIT)
        why = f"held too long, failed: {hold.reason}"
        self._confinement.fail_each(self._database, found, fail, why, now)
        return len(found)
