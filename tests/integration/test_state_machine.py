"""Faults and events in any order, with the real reconciler on SQLite.

Node.js writes, replaces and deletes rows, time passes, runs end, report nonsense or disappear. The
database refuses rows and the launcher refuses runs. Failures open holds, and people pause and
resume. At any point of a pass the operator may crash,
Node.js may write, a second operator may run a pass, or the database or the launcher may be away.
After each step the promises must hold. Once the faults stop, every task must end.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from tests.interruptions import Interruption, interrupted_operator
from tests.world import COURSE, World

from enrollgate.database import DatabaseUnavailable
from enrollgate.database.holds import load_holds
from enrollgate.domain.account import account_sha256, cookies_name
from enrollgate.domain.observation import Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.policy import HoldPolicy, Policy
from enrollgate.domain.reasons import Reason
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.local.exit_result import ExitResult, RunResult, parse_report, result_of

pytestmark = pytest.mark.slow

# After how many points of a pass it is interrupted.
POINTS = st.integers(0, 40)
# As many examples show each of the EFFECTS.
EXAMPLES = 60
# More than the points of a pass here, and how many points lie between two that are tried.
MOST_POINTS, STRIDE = 40, 4
WAITING = ("pending", "paid", "processing")
ALIVE = (Phase.LIVE, Phase.STUCK)
# Reports that no worker writes, and some that only look odd.
ODD_REPORTS = (
    "",
    "null",
    "[" * 4096,
    '{"reason": null, "message": 5}',
    '{"reason": "SiteError", "message": "x", "items_failed": "many"}',
    '{"reason": "SiteError", "message": "x", "items_failed": 1e999}',
    '{"reason": "SiteError", "message": "x", "bytes_delivered": ' + "9" * 3950 + "}",
    '{"reason": "SiteError", "message": "x", "bytes_delivered": 18446744073709551616}',
    '{"reason": "SiteError", "message": "\\ud800 \\u0000 \\n"}',
    '{"reason": "Unheard", "message": "x"}',
    '{"reason": "SiteError", "message": "' + "x" * 10_000 + '"}',
    '{"reason": null, "message": "", "destination_url": "\\ud800"}',
)
# What runs fail with: some speak for their account, their host, or the destination.
FAILURES = (
    Reason.COURSE_NOT_FOUND,
    Reason.SITE_ERROR,
    Reason.COOKIES_EXPIRED,
    Reason.ACCESS_DENIED,
    Reason.DESTINATION_QUOTA,
)
ACCOUNTS = ("ada@example.com", "bob@example.com")
COURSES = (COURSE, "https://other.example.com/course")
PER_ACCOUNT, PER_HOST = 1, 2
# The note of rows whose status the database does not let the operator write.
REFUSED = "refused"


# What the faults do to an operator, as its tables show it: a number other than 0. Each of these
# must happen, or the rule that is there for it proves nothing.
EFFECTS = {
    "a row was refused": "COUNT(*) FROM enrollgate_tasks WHERE refusal LIKE '%not this row%'",
    "the row of a run that has ended was refused": "COUNT(*) FROM enrollgate_runs "
    "WHERE state = 'ended'",
    "a launch was refused": "COUNT(*) FROM enrollgate_tasks "
    "WHERE refusal LIKE '%admission webhook%'",
    "a launch has raised an error": "COUNT(*) FROM enrollgate_tasks "
    "WHERE refusal LIKE '%unexpected error%'",
    "waits were moved with the clock": "MAX(clock_steps) FROM enrollgate_tasks",
    "a run was stopped since its row was replaced": "COUNT(*) FROM enrollgate_runs "
    "WHERE reason = 'TaskChanged'",
    "a run was lost": "COUNT(*) FROM enrollgate_runs WHERE outcome = 'lost'",
    "a hold was open": "COUNT(*) FROM enrollgate_holds WHERE kind = 'hold'",
    "a pause was open": "COUNT(*) FROM enrollgate_holds WHERE kind = 'pause'",
    "an odd report was recorded": "COUNT(*) FROM enrollgate_runs "
    "WHERE reason = 'WorkerCrashed' OR message LIKE '%left no report%'",
}
# After how many steps each of them was there.
SEEN = Counter[str]()


class OperatorCrashed(BaseException):
    """The process has ended: nothing may catch this."""


class Promises(RuleBasedStateMachine):
    tasks: Bundle[int] = Bundle("tasks")

    @initialize()
    def begin(self) -> None:
        handle, name = tempfile.mkstemp(suffix=".db")
        os.close(handle)
        self.path = Path(name)
        self.world = World(
            f"sqlite:///{name}",
            Policy(
                enrollment_timeout=300,
                max_concurrent_runs=3,
                max_lost_runs=2,
                max_runs_per_account=PER_ACCOUNT,
                max_runs_per_host=PER_HOST,
                holds=HoldPolicy(threshold=2, pause=60, longest_pause=600, enough=3),
            ),
        )
        self.interruption = Interruption()
        # For each operator, the tasks that Node.js has moved since that operator began to read
        # last. It may still launch them: the check before a launch is such a reading.
        self.moved = (set[int](), set[int]())
        self.succeeded = set[str]()
        # What Node.js wrote last to each task.
        self.written: dict[int, str | None] = {}
        # When Node.js added the rows to which it has not written since, in seconds.
        self.added = dict[int, float]()
        # Finished tasks and their statuses, until Node.js writes to them again.
        self.over: dict[int, str] = {}
        # How many courses and accounts were made up.
        self.versions = 0
        # Only the operator writes a status and leaves the note.
        self.world.sql(
            "CREATE TRIGGER refusal BEFORE UPDATE OF status ON download_tasks "
            f"WHEN NEW.note = '{REFUSED}' BEGIN SELECT RAISE(ABORT, 'not this row'); END"
        )
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.once_the_faults_stop_every_task_ends()
            finally:
                self.world.close()
                for path in self.path.parent.glob(self.path.name + "*"):
                    path.unlink()

    def restart(self) -> None:
        # What is left of a full pass that has begun.
        self.rest: Callable[[], object] | None = None
        self.operator, self.second = (
            interrupted_operator(
                self.world,
                interruption,
                partial(self.only_what_is_enrolled, moved),
                moved.clear,
            )
            for interruption, moved in zip(
                (self.interruption, Interruption()), self.moved, strict=True
            )
        )

    def only_what_is_enrolled(self, moved: set[int], order: RunOrder) -> None:
        if order.task_id not in moved:
            status, url, cookies = self.row(order.task_id)
            assert status == "enrolled", f"launched a task at {status!r}"
            assert (order.course_url, order.cookies_name) == (url, cookies), "launched what was"

    def note_move(self, task: int) -> None:
        for moved in self.moved:
            moved.add(task)

    def row(self, task: int) -> tuple[str | None, str | None, str | None]:
        """Return the status of a task, its course and the name of its account's cookies."""
        with self.world.database.read_transaction() as connection:
            row = connection.execute(
                text("SELECT status, course_url, email FROM download_tasks WHERE id = :id"),
                {"id": task},
            ).one_or_none()
        return (row[0], row[1], cookies_name(row[2])) if row else (None, None, None)

    # Node.js

    @rule(
        target=tasks,
        status=st.sampled_from([*WAITING, "enrolled", "odd", None]),
        account=st.sampled_from(ACCOUNTS),
        course=st.sampled_from(COURSES),
    )
    def node_adds_a_task(self, status: str | None, account: str, course: str) -> int:
        return self.a_new_task(status, account, course)

    def a_new_task(self, status: str | None, account: str, course: str) -> int:
        task = self.world.add(status, account, course)
        self.written[task] = status
        self.added[task] = self.world.clock.elapsed
        return task

    @rule(
        task=tasks,
        status=st.sampled_from([*WAITING, "enrolled", "enrolled", "failed", "odd", None]),
    )
    def node_writes_a_status(self, task: int, status: str | None) -> None:
        if task not in self.written or self.world.status(task) == "completed":
            return  # The row is deleted or completed: an application does not write to it again.
        self.world.sql(
            "UPDATE download_tasks SET status = :status, note = 'Node.js' WHERE id = :id",
            status=status,
            id=task,
        )
        self.note_write(task, status)

    def note_write(self, task: int, status: str | None) -> None:
        self.written[task] = status
        self.added.pop(task, None)
        self.note_move(task)
        self.over.pop(task, None)

    @rule(task=tasks, status=st.sampled_from([*WAITING, "enrolled", "enrolled", "failed"]))
    def node_replaces_a_row(self, task: int, status: str) -> None:
        self.versions += 1
        self.world.sql(
            "REPLACE INTO download_tasks (id, status, email, course_url) "
            "VALUES (:id, :status, :email, :url)",
            id=task,
            status=status,
            email=f"ada{self.versions}@example.com",
            url=f"{COURSE}/{self.versions}",
        )
        self.note_write(task, status)

    @rule(task=tasks, is_course=st.booleans())
    def node_corrects_a_row(self, task: int, is_course: bool) -> None:
        if task not in self.written or self.world.status(task) == "completed":
            return
        self.versions += 1
        self.world.sql(
            "UPDATE download_tasks SET course_url = :url WHERE id = :id"
            if is_course
            else "UPDATE download_tasks SET email = :url || '@example.com' WHERE id = :id",
            id=task,
            url=f"{COURSE}/{self.versions}" if is_course else f"ada{self.versions}",
        )
        self.note_move(task)

    @rule(task=tasks)
    def the_database_refuses_a_row(self, task: int) -> None:
        self.world.sql(f"UPDATE download_tasks SET note = '{REFUSED}' WHERE id = :id", id=task)

    @rule()
    def the_database_accepts_all_rows(self) -> None:
        self.world.sql("UPDATE download_tasks SET note = 'Node.js'")

    @rule(task=tasks, is_known=st.booleans())
    def the_launcher_refuses_a_task(self, task: int, is_known: bool) -> None:
        if is_known:
            self.world.launcher.refused[task] = "an admission webhook says no"
        else:
            self.world.launcher.broken.add(task)

    @rule(target=tasks, by_launcher=st.booleans())
    def a_new_task_is_refused(self, by_launcher: bool) -> int:
        """Its launch, or its end by the timeout. Neither a limit nor a hold keeps it from that."""
        self.a_person_resumes_everything()
        self.live_runs_succeed()
        self.a_pass()
        self.versions += 1
        name, status = f"fay{self.versions}", "enrolled" if by_launcher else "processing"
        task = self.a_new_task(status, f"{name}@example.com", f"https://{name}.example.com")
        if by_launcher:
            self.the_launcher_refuses_a_task(task, is_known=True)
        else:
            self.the_database_refuses_a_row(task)
            self.a_pass()
            self.world.clock.advance(self.world.policy.enrollment_timeout + 1)
        self.a_pass()
        return task

    @rule()
    def the_launcher_accepts_all_tasks(self) -> None:
        self.world.launcher.refused.clear()
        self.world.launcher.broken.clear()

    @rule(task=tasks)
    def node_deletes_a_row(self, task: int) -> None:
        self.world.delete(task)
        self.written.pop(task, None)
        self.note_move(task)
        self.over.pop(task, None)

    # time and the runs

    @rule(seconds=st.sampled_from([1, 10, 70, 299, 300, 301]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600, -45, 45, 3600]))
    def the_databases_clock_is_set(self, seconds: int) -> None:
        """Both operators know the time before it, and one works on: else it is no step."""
        self.a_pass()
        self.a_pass_of_the_second_operator()
        self.world.clock.step(seconds)
        self.a_pass()

    @precondition(lambda self: self.world.launcher.live)
    @rule(
        data=st.data(),
        how=st.sampled_from(["succeed", "fail", "lose", "stick"]),
        reason=st.sampled_from(FAILURES),
    )
    def a_run_ends(self, data: st.DataObject, how: str, reason: Reason) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.launcher.live)))
        if how == "succeed":
            self.world.launcher.succeed(name)
            self.succeeded.add(name)
        elif how == "fail":
            self.world.launcher.fail(name, reason)
        elif how == "stick":
            self.world.launcher.stick(name)
        else:
            self.world.launcher.lose(name)

    @precondition(lambda self: self.world.launcher.live)
    @rule(
        data=st.data(),
        content=st.sampled_from(ODD_REPORTS),
        code=st.sampled_from([0, 1, 69, 75, -9]),
    )
    def a_run_ends_with_an_odd_report(self, data: st.DataObject, content: str, code: int) -> None:
        """Let a launcher make of the report what it can, as the supervisor does."""
        name = data.draw(st.sampled_from(sorted(self.world.launcher.live)))
        result = result_of(ExitResult(code, parse_report(content)), 1, None, 60)
        assert result is not None
        result = RunResult.decode(result.encode())
        self.world.launcher.end(
            name, Phase.SUCCEEDED if result.succeeded else Phase.FAILED, result.report
        )
        if result.succeeded:
            self.succeeded.add(name)

    @rule(
        target=tasks,
        account=st.sampled_from(ACCOUNTS),
        reason=st.sampled_from([None, Reason.COOKIES_EXPIRED, Reason.DESTINATION_QUOTA]),
    )
    def a_crowd_of_one_account_arrives(self, account: str, reason: Reason | None) -> int:
        """More than the limits allow at once, perhaps while a hold of them is about to open."""
        if reason is None:
            self.live_runs_succeed()
        else:
            for name in self.world.launcher.live:
                self.world.launcher.fail(name, reason)
        crowd = [self.a_new_task("enrolled", account, COURSE) for _ in range(3)]
        self.a_pass()
        self.no_limit_is_exceeded()
        self.world.clock.advance(61)
        self.a_pass()
        return crowd[0]

    # people

    @rule(
        scope=st.sampled_from(["account", "host", "destination", "installation"]),
        account=st.sampled_from(ACCOUNTS),
        course=st.sampled_from(COURSES),
    )
    def a_person_pauses(self, scope: str, account: str, course: str) -> None:
        """What a full pass sees paused is not claimed by it, nor by any later one."""
        subject = {"account": account_sha256(account), "host": urlsplit(course).hostname or ""}
        self.world.sql(
            "INSERT OR IGNORE INTO enrollgate_holds (installation, scope, subject, opened_by) "
            "VALUES ('test', :scope, :subject, 'a person')",
            scope=scope,
            subject=subject.get(scope, ""),
        )
        column = {"account": "account", "host": "course_host"}.get(scope)
        where = f" AND {column} = '{subject[scope]}'" if column else ""
        claimed = "SELECT COUNT(*) FROM enrollgate_runs WHERE claim_id IS NOT NULL" + where
        before = self.world.scalar(claimed)
        self.a_pass()
        assert self.world.scalar(claimed) == before, f"claimed during a pause of the {scope}"

    @rule()
    def a_person_resumes_everything(self) -> None:
        self.world.sql(
            "UPDATE enrollgate_holds SET closed_at = opened_at WHERE kind = 'pause' AND active = 1"
        )

    @rule(lingering=st.booleans())
    def stopped_runs_stay_live(self, lingering: bool) -> None:
        self.world.launcher.lingering = lingering

    # the operator

    def some_runs(self, data: st.DataObject) -> frozenset[str] | None:
        """Return the runs of a focused pass, or None for a full pass."""
        names = sorted(
            {run.name for run in self.world.runs()} | set(self.world.launcher.runs) | {"test-99-1"}
        )
        return data.draw(st.none() | st.frozensets(st.sampled_from(names)))

    def interrupted(
        self, focus: frozenset[str] | None, points: int, callback: Callable[[], object]
    ) -> None:
        """Run a pass that calls `callback` after so many points."""
        with self.interruption.after(points, callback):
            self.operator.reconcile(focus)

    @rule()
    def a_pass(self) -> None:
        while self.operator.reconcile().more:
            pass
        # What is live belongs to its row, or is being stopped.
        orders = {order.name: order for order in self.world.launcher.orders}
        for name in set(self.world.launcher.live) - self.world.launcher.stopping:
            status, url, cookies = self.row(orders[name].task_id)
            content = (orders[name].course_url, orders[name].cookies_name)
            assert status != "enrolled" or content == (url, cookies), f"{name} is of another row"

    @rule()
    def a_pass_of_the_second_operator(self) -> None:
        self.second.reconcile()

    @rule(data=st.data())
    def a_focused_pass(self, data: st.DataObject) -> None:
        self.operator.reconcile(self.some_runs(data))

    @rule()
    def a_full_pass_begins_or_goes_on(self) -> None:
        """It reads what it begins with in another thread: anything may happen meanwhile."""
        rest, self.rest = self.rest, None
        if rest is None:
            self.rest = self.operator.begin_full_pass()
        else:
            rest()

    @rule(data=st.data(), points=POINTS)
    def a_pass_that_crashes(self, data: st.DataObject, points: int) -> None:
        def crash() -> None:
            raise OperatorCrashed

        with suppress(OperatorCrashed):
            self.interrupted(self.some_runs(data), points, crash)
        self.restart()

    @rule(
        data=st.data(),
        points=POINTS,
        who=st.sampled_from([DatabaseUnavailable, LauncherUnavailable]),
    )
    def a_pass_that_is_aborted(
        self, data: st.DataObject, points: int, who: type[Exception]
    ) -> None:
        def go_away() -> None:
            raise who("gone for a moment")

        with suppress(DatabaseUnavailable, LauncherUnavailable):
            self.interrupted(self.some_runs(data), points, go_away)

    @rule(
        data=st.data(),
        points=POINTS,
        task=tasks,
        status=st.sampled_from(
            [*WAITING, "enrolled", "failed", "odd", "deleted", "replaced", "corrected"]
        ),
    )
    def a_pass_during_which_node_writes(
        self, data: st.DataObject, points: int, task: int, status: str
    ) -> None:
        def write() -> None:
            if status == "deleted":
                self.node_deletes_a_row(task)
            elif status == "replaced":
                self.node_replaces_a_row(task, "enrolled")
            elif status == "corrected":
                self.node_corrects_a_row(task, is_course=True)
            else:
                self.node_writes_a_status(task, status)

        self.interrupted(self.some_runs(data), points, write)

    @rule(
        target=tasks,
        first=st.integers(0, STRIDE - 1),
        when=st.sampled_from(["launch", "left claim", "result", "results", "run"]),
    )
    def rows_are_replaced_around_their_runs(self, first: int, when: str) -> int:
        """One row at every point of a pass that launches its run, records its end, or finds it.

        A left claim is one whose run could not be launched yet. Neither a limit nor a hold keeps
        these rows from being claimed.
        """
        self.a_person_resumes_everything()
        for points in range(first, MOST_POINTS, STRIDE):
            self.live_runs_succeed()
            self.a_pass()
            for _ in range(2 if when == "results" else 1):
                self.versions += 1
                name, replaced = f"eve{self.versions}", list[int]()
                url = f"https://{name}.example.com"
                task = self.a_new_task("enrolled", f"{name}@example.com", url)
            self.world.launcher.waits = "there is no room" if when == "left claim" else ""
            if when != "launch":
                self.a_pass()
            self.world.launcher.waits = ""
            if when.startswith("result"):
                self.live_runs_succeed()

            def replace(task: int = task, replaced: list[int] = replaced) -> None:
                replaced.append(task)
                self.node_replaces_a_row(task, "enrolled")

            self.interrupted(None, points, replace)
            self.a_completed_task_had_a_run_that_succeeded()
            if not replaced:
                break  # the pass has fewer points
        if when == "run":
            self.a_pass()
        return task

    def live_runs_succeed(self) -> None:
        for name in self.world.launcher.live:
            self.world.launcher.succeed(name)
            self.succeeded.add(name)

    @rule(data=st.data(), points=POINTS)
    def a_pass_during_which_the_second_operator_makes_one(
        self, data: st.DataObject, points: int
    ) -> None:
        focus = self.some_runs(data)
        self.interrupted(
            self.some_runs(data), points, lambda: self.second.reconcile(focus) and None
        )

    # the promises

    @invariant()
    def at_most_one_unfinished_run_per_task(self) -> None:
        rows = self.world.runs()
        unfinished = [run.task_id for run in rows if run.state != "finished"]
        assert len(unfinished) == len(set(unfinished))

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        for column, limit in (("account", PER_ACCOUNT), ("course_host", PER_HOST)):
            most = self.world.scalar(
                "SELECT COALESCE(MAX(n), 0) FROM (SELECT COUNT(*) AS n FROM enrollgate_runs "
                f"WHERE active = 1 AND state <> 'ended' GROUP BY {column})"
            )
            assert most <= limit, f"{most} runs of one {column}"
        for hold in load_holds(self.world.database, "test"):
            subject = {"account": "account", "host": "course_host"}.get(hold.scope)
            where = f" AND {subject} = '{hold.subject}'" if subject else ""
            live = self.world.scalar(
                "SELECT COUNT(*) FROM enrollgate_runs WHERE active = 1 AND state <> 'ended' "
                f"AND claimed_at > '{hold.opened_at:%Y-%m-%d %H:%M:%S.%f}'{where}"
            )
            # What was allowed when they were claimed: a failure allows none from then on.
            assert live <= max(1, 2 * hold.allowed, 0 if hold.allowed else 3 * hold.probes), hold

    @invariant()
    def no_task_runs_twice_at_once(self) -> None:
        tasks = [
            name.split("-")[1]
            for name, seen in self.world.launcher.runs.items()
            if seen.phase in ALIVE
        ]
        assert len(tasks) == len(set(tasks)), self.world.launcher.live

    @invariant()
    def a_completed_task_had_a_run_that_succeeded(self) -> None:
        with self.world.database.read_transaction() as connection:
            completed = (
                connection.execute(text("SELECT id FROM download_tasks WHERE status='completed'"))
                .scalars()
                .all()
            )
        orders = {order.name: order for order in self.world.launcher.orders}
        for task in completed:
            _, url, cookies = self.row(task)
            assert any(
                run.name in self.succeeded
                and run.outcome == "succeeded"
                and (orders[run.name].course_url, orders[run.name].cookies_name) == (url, cookies)
                for run in self.world.runs(task)
            ), f"task {task} is completed, and its course was not delivered"

    @invariant()
    def what_is_over_stays_as_it_is(self) -> None:
        with self.world.database.read_transaction() as connection:
            over = connection.execute(
                text(
                    "SELECT id, status FROM download_tasks WHERE status IN ('completed', 'failed')"
                )
            )
            now = {row[0]: row[1] for row in over}
        for task, status in self.over.items():
            assert now.get(task) == status
        self.over = now

    @invariant()
    def what_node_ended_stays_as_node_wrote_it(self) -> None:
        for task, status in self.written.items():
            if status == "failed":
                assert self.world.status(task) == "failed"

    @invariant()
    def no_enrollment_times_out_early(self) -> None:
        for task, added in self.added.items():
            waited = self.world.clock.elapsed - added
            if self.written.get(task) in WAITING and waited < self.world.policy.enrollment_timeout:
                assert self.world.status(task) == self.written[task], f"failed after {waited} s"

    @invariant()
    def effects_are_noted(self) -> None:
        parts = (f"SELECT '{effect}', {number}" for effect, number in EFFECTS.items())
        with self.world.database.read_transaction() as connection:
            for effect, number in connection.execute(text(" UNION ALL ".join(parts))):
                SEEN[effect] += bool(number)

    @invariant()
    def every_failure_of_ours_has_its_reason(self) -> None:
        for task, status in self.written.items():
            if status != "failed" and self.world.status(task) == "failed":
                assert any(run.reason for run in self.world.runs(task))

    def once_the_faults_stop_every_task_ends(self) -> None:
        """Refused tasks hold nobody up; once they are accepted, they end, too."""
        self.world.launcher.lingering = False
        self.a_person_resumes_everything()
        self.restart()
        launcher = self.world.launcher
        self.come_to_rest({*launcher.refused, *launcher.broken})
        self.the_database_accepts_all_rows()
        self.the_launcher_accepts_all_tasks()
        self.come_to_rest(set())

    def come_to_rest(self, refused: set[int]) -> None:
        """Make passes until every task has ended that nothing refuses."""
        without = ",".join(map(str, {0, *refused}))
        refusing = f"(SELECT id FROM download_tasks WHERE note = '{REFUSED}' OR id IN ({without}))"
        for _ in range(200):
            self.operator.reconcile()
            self.world.clock.advance(30)
            for name in self.world.launcher.live:
                if name in self.world.launcher.stopping:
                    continue
                if int(name.split("-")[1]) % 3 == 0:
                    self.world.launcher.fail(name, Reason.COURSE_NOT_FOUND)
                else:
                    self.world.launcher.succeed(name)
                    self.succeeded.add(name)
            self.no_task_runs_twice_at_once()
            open_tasks = self.world.scalar(
                "SELECT COUNT(*) FROM download_tasks "
                "WHERE status IN ('pending', 'paid', 'processing', 'enrolled') "
                f"AND id NOT IN {refusing}"
            )
            unfinished = self.world.scalar(
                "SELECT COUNT(*) FROM enrollgate_runs WHERE active = 1 "
                f"AND task_id NOT IN {refusing}"
            )
            tracked = self.world.scalar(
                f"SELECT COUNT(*) FROM enrollgate_tasks WHERE task_id NOT IN {refusing}"
            )
            if not any((open_tasks, unfinished, tracked, self.world.launcher.runs)):
                return
        raise AssertionError(f"tasks are left hanging: {self.world.runs()}")


def test_promises_hold_whatever_happens_in_any_order() -> None:
    SEEN.clear()
    examples = int(os.environ.get("ENROLLGATE_TEST_EXAMPLES") or EXAMPLES)
    run_state_machine_as_test(
        Promises,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if examples >= EXAMPLES:
        assert all(SEEN[effect] for effect in EFFECTS), SEEN
