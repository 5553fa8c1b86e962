"""The contract, sentence by sentence, on every database, with a clock that the tests move."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

import pytest
from sqlalchemy import event, text
from structlog.testing import capture_logs
from tests.world import World

from enrollgate.database.engine import database_clock
from enrollgate.database.tables import UNKNOWN_STATUS_LIMIT
from enrollgate.database.tasks import EXPIRY_LIMIT
from enrollgate.domain.observation import LaunchResult
from enrollgate.domain.planner import Launch
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason, explain
from enrollgate.telemetry import metrics


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    yield world
    world.close()


def tick(world: World, seconds: float, interval: float = 10) -> None:
    """Advance the clock and run a pass at every interval."""
    for _ in range(round(seconds / interval)):
        world.clock.advance(interval)
        world.reconcile()


def checks(logs: Iterable[Mapping[str, object]]) -> list[str]:
    return [str(entry["event"]) for entry in logs if "ENROLL CHECK" in str(entry["event"])]


# the four cases


def test_run_starts_when_enrolled_and_not_before(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    tick(world, 20)
    assert world.launcher.orders == []
    tick(world, 10)
    world.set(task, "enrolled")
    world.reconcile()
    assert [order.task_id for order in world.launcher.orders] == [task]
    assert world.status(task) == "enrolled"
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile()
    assert world.status(task) == "completed"
    (run,) = world.runs(task)
    assert (run.state, run.outcome, run.reason) == ("finished", "succeeded", None)
    assert run.result is not None and "file:///x" in run.result


def test_slow_enrollment_before_the_timeout_does_not_fail(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    for _ in range(12):
        tick(world, 10)
        assert world.status(task) == "processing"
    world.set(task, "enrolled")
    tick(world, 10)
    world.launcher.succeed(f"test-{task}-1")
    tick(world, 10)
    assert world.status(task) == "completed"


def test_task_that_node_failed_gets_no_run_and_stays_failed(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    tick(world, 30)
    world.set(task, "failed")
    tick(world, 400)
    assert world.status(task) == "failed"
    assert world.runs(task) == [] and world.launcher.orders == []


def test_task_that_stays_waiting_fails_after_the_timeout(world: World) -> None:
    task = world.add("processing")
    with capture_logs() as logs:
        world.reconcile()
        tick(world, 290)
        assert world.status(task) == "processing"
        tick(world, 10)
    assert world.status(task) == "failed"
    (run,) = world.runs(task)
    assert (run.outcome, run.reason, run.message) == (
        "failed",
        "EnrollmentTimeout",
        "enrollment timeout after 300s",
    )
    assert world.launcher.orders == []
    assert checks(logs) == [
        f"ENROLL CHECK task={task} status=processing waiting... (0s/300s)",
        f"ENROLL CHECK task={task} status=processing enrollment timeout after 300s, failed "
        "(300s/300s)",
    ]


def test_row_enrolled_at_the_deadline_is_not_failed(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(300)
    world.set(task, "enrolled")
    world.reconcile()
    assert world.status(task) == "enrolled"
    assert len(world.launcher.orders) == 1


def test_operator_restart_does_not_restart_the_timeout(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    tick(world, 150)
    world.restart()
    tick(world, 140)
    assert world.status(task) == "processing"
    world.restart()
    tick(world, 10)
    assert world.status(task) == "failed"


# the gate


def test_change_of_waiting_status_keeps_the_timeout_and_is_logged_once(world: World) -> None:
    task = world.add("pending")
    with capture_logs() as logs:
        world.reconcile()
        tick(world, 120)
        world.set(task, "processing")
        tick(world, 170)
        assert world.status(task) == "processing"
        tick(world, 10)
    assert world.status(task) == "failed"
    assert checks(logs)[1] == f"ENROLL CHECK task={task} status=processing waiting... (130s/300s)"
    assert len(checks(logs)) == 3


def test_failed_task_set_to_waiting_gets_a_fresh_timeout_and_run(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    tick(world, 300)
    assert world.status(task) == "failed"
    world.set(task, "pending")
    world.reconcile()
    tick(world, 290)
    assert world.status(task) == "pending"
    world.set(task, "enrolled")
    tick(world, 10)
    assert [(order.task_id, order.run_number) for order in world.launcher.orders] == [(task, 2)]


def test_failed_task_set_to_enrolled_gets_a_run_after_the_old_one_ends(
    world: World,
) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.launcher.lingering = True
    world.set(task, "failed")
    world.reconcile()
    world.set(task, "enrolled")
    tick(world, 30)
    assert len(world.launcher.orders) == 1, "the old run is still there"
    world.launcher.lingering = False
    tick(world, 20)
    assert [order.run_number for order in world.launcher.orders] == [1, 2]
    first, second = world.runs(task)
    assert (first.outcome, first.reason) == ("revoked", "TaskFailed")
    assert second.state == "launched"


def test_completed_task_is_never_changed(world: World) -> None:
    task = world.add("completed")
    tick(world, 600)
    assert world.status(task) == "completed" and world.runs() == []


def test_unknown_status_of_a_new_row_is_left_alone_and_warned_of_once(
    world: World,
) -> None:
    task = world.add("refunded")
    empty = world.add(None)
    with capture_logs() as logs:
        tick(world, 600)
    assert world.status(task) == "refunded" and world.status(empty) is None
    warnings = [entry for entry in logs if "unknown status are left alone" in str(entry["event"])]
    assert sorted(str(entry["status"]) for entry in warnings) == ["NULL", "refunded"]
    assert world.runs() == []


def test_many_unknown_statuses_are_counted_and_a_few_are_named(world: World) -> None:
    for number in range(60):
        world.add(f"error: {number}")
    waiting = world.add("pending")
    with capture_logs() as logs:
        tick(world, 600)
    named = [entry for entry in logs if "unknown status are left alone" in str(entry["event"])]
    assert len(named) == len({str(entry["status"]) for entry in named}) == UNKNOWN_STATUS_LIMIT
    assert sum("counted but not named" in str(entry["event"]) for entry in logs) == 1
    assert metrics.TASKS.labels("unknown")._value.get() == 60
    assert (
        world.status(waiting) == "failed"
        and world.scalar("SELECT COUNT(*) FROM enrollgate_runs") == 1
    )


def test_waiting_task_that_gets_an_unknown_status_is_failed(world: World) -> None:
    task = world.add("pending")
    world.reconcile()
    world.set(task, "refunded")
    with capture_logs() as logs:
        tick(world, 10)
    assert world.status(task) == "failed"
    (run,) = world.runs(task)
    assert run.reason == "UnexpectedStatus"
    assert run.message == "status became 'refunded', which is none of the configured statuses"
    assert checks(logs) == [
        f"ENROLL CHECK task={task} status=refunded rejected, failed: UnexpectedStatus (10s/300s)"
    ]


def test_waiting_task_that_gets_a_null_status_is_failed(world: World) -> None:
    task = world.add("pending")
    world.reconcile()
    world.set(task, None)
    tick(world, 10)
    assert world.status(task) == "failed"
    (run,) = world.runs(task)
    assert run.reason == "UnexpectedStatus"
    assert run.message == "status became NULL, which is none of the configured statuses"


def test_running_task_that_gets_an_unknown_status_is_stopped_and_failed(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.set(task, "refunded")
    with capture_logs() as logs:
        tick(world, 20)
    assert world.status(task) == "failed"
    assert world.launcher.live == []
    (run,) = world.runs(task)
    assert run.reason == "UnexpectedStatus"
    assert run.message == "status became 'refunded', which is none of the configured statuses"
    assert checks(logs) == [
        f"ENROLL CHECK task={task} status=refunded stopping its run: UnexpectedStatus (10s/300s)"
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("failed", "TaskFailed"),
        ("processing", "EnrollmentWithdrawn"),
        ("completed", "TaskCompleted"),
    ],
)
def test_running_task_that_is_no_longer_enrolled_is_stopped(
    world: World, status: str, reason: str
) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.set(task, status)
    tick(world, 20)
    assert world.launcher.live == []
    assert world.status(task) == status
    (run,) = world.runs(task)
    assert (run.outcome, run.reason) == ("revoked", reason)


def test_enrolled_task_set_to_waiting_gets_a_fresh_timeout(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    tick(world, 290)
    world.set(task, "processing")
    tick(world, 300)
    assert world.status(task) == "processing"
    tick(world, 10)
    assert world.status(task) == "failed"


def test_run_of_a_deleted_row_is_stopped_and_recorded_as_not_found(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.delete(task)
    with capture_logs() as logs:
        tick(world, 20)
    assert checks(logs) == [
        f"ENROLL CHECK task={task} status=enrolled over: row deleted (10s/300s)"
    ]
    assert world.launcher.live == []
    (run,) = world.runs(task)
    assert (run.outcome, run.reason) == ("revoked", "TaskNotFound")
    assert world.scalar("SELECT COUNT(*) FROM enrollgate_tasks") == 0


def test_other_columns_of_the_row_are_never_changed(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile()
    where = "email='ada@example.com' AND note='Node.js' AND course_url LIKE 'https://%'"
    assert world.scalar(f"SELECT COUNT(*) FROM download_tasks WHERE {where}") == 1


# the runs


def test_failed_run_fails_its_task_with_the_reason(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.launcher.fail(f"test-{task}-1", Reason.ACCESS_DENIED)
    world.reconcile()
    assert world.status(task) == "failed"
    (run,) = world.runs(task)
    assert (run.outcome, run.reason, run.message) == ("failed", "AccessDenied", "the site said no")


def test_lost_run_is_launched_again_up_to_the_limit(world: World) -> None:
    task = world.add("enrolled")
    for _ in range(4):
        world.reconcile()
        (name,) = world.launcher.live
        world.launcher.lose(name)
    world.reconcile()
    assert world.status(task) == "failed"
    assert [run.outcome for run in world.runs(task)] == ["lost", "lost", "lost", "failed"]
    assert world.runs(task)[-1].reason == "Lost"
    world.set(task, "enrolled")
    world.reconcile()
    world.launcher.lose(world.launcher.live[0])
    world.reconcile()
    assert len(world.launcher.live) == 1, "a fresh start has a fresh limit"


def test_live_runs_keep_to_the_limit_and_all_tasks_end(database_url: str) -> None:
    world = World(database_url, Policy(max_concurrent_runs=3))
    tasks = [world.add("enrolled") for _ in range(10)]
    for _ in range(20):
        world.reconcile()
        assert len(world.launcher.live) <= 3
        for name in world.launcher.live[:2]:
            world.launcher.succeed(name)
    assert {world.status(task) for task in tasks} == {"completed"}
    assert sorted(order.task_id for order in world.launcher.orders) == tasks
    world.close()


@pytest.mark.parametrize(
    ("email", "url", "reason", "message"),
    [
        (None, "https://a.example/1", "InvalidTask", "e-mail"),
        ("  ", "https://a.example/1", "InvalidTask", "e-mail"),
        ("a@example.com", None, "InvalidTask", "course URL"),
        ("a@example.com", "javascript:alert(1)", "InvalidCourseUrl", "javascript"),
        ("a@example.com", "file:///etc/passwd", "InvalidCourseUrl", "file"),
        ("a@example.com", "https://a.example/" + "x" * 10_000, "InvalidCourseUrl", "2,048"),
        ("a@example.com", "http://169.254.169.254/latest", "HostNotAllowed", "169.254.169.254"),
        ("a@example.com", "https://10.0.0.1/", "HostNotAllowed", "10.0.0.1"),
    ],
)
def test_invalid_row_fails_with_its_reason_and_others_continue(
    world: World, email: str | None, url: str | None, reason: str, message: str
) -> None:
    bad = world.add("enrolled", email, url)
    good = world.add("enrolled")
    with capture_logs() as logs:
        world.reconcile()
    assert f"ENROLL CHECK task={bad} status=enrolled refused, failed: {reason} (0s/300s)" in checks(
        logs
    )
    assert world.status(bad) == "failed" and world.status(good) == "enrolled"
    (run,) = world.runs(bad)
    assert run.reason == reason
    assert run.message is not None and message in run.message and "a@example.com" not in run.message
    assert [order.task_id for order in world.launcher.orders] == [good]


def test_invalid_rows_free_their_slots_for_a_pass_at_once(database_url: str) -> None:
    with closing(World(database_url, Policy(max_concurrent_runs=2))) as world:
        bad = [world.add("enrolled", email=None) for _ in range(4)]
        good = world.add("enrolled")
        passes = 1
        while world.reconcile().more:
            passes += 1
        # The accounts take turns: so the good one is not behind all the others.
        assert passes == 5 and [order.task_id for order in world.launcher.orders] == [good]
        assert {world.status(task) for task in bad} == {"failed"}


def test_taken_run_name_fails_the_task_with_the_reason(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.taken.add(f"test-{task}-1")
    world.reconcile()
    assert world.status(task) == "failed" and world.runs(task)[0].reason == "NameTaken"


def test_run_waits_while_the_launcher_is_full(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.full = True
    tick(world, 600)
    assert world.status(task) == "enrolled" and world.runs(task)[0].state == "claimed"
    world.launcher.full = False
    world.reconcile()
    assert world.runs(task)[0].state == "launched"


def test_orphan_is_stopped_and_recorded_run_is_discarded(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    orphan = world.launcher.runs.copy()
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile()
    assert world.launcher.runs == {}
    world.launcher.runs.update(orphan)
    world.reconcile()
    world.reconcile()
    assert world.launcher.live == []


def test_upper_case_status_is_compared_by_the_columns_collation(world: World) -> None:
    task = world.add("PROCESSING")
    world.reconcile()
    world.set(task, "ENROLLED")
    world.reconcile()
    if world.database.is_sqlite:  # SQLite compares bytes: an unknown status on a new row
        assert world.launcher.orders == [] and world.status(task) == "ENROLLED"
        return
    assert [order.task_id for order in world.launcher.orders] == [task]
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile()
    assert world.status(task) == "completed"


# the cost


@pytest.mark.parametrize("unfinished", [0, 3])
def test_new_row_is_launched_with_six_statements_and_one_commit(
    database_url: str, unfinished: int
) -> None:
    """By the clock of the database, as in production, and whatever runs there are already.

    What the servers count is in test_gate_look.
    """
    sent, commits, before_launch = list[str](), list[object](), list[int]()
    with closing(World(database_url, database_clock=database_clock)) as world:
        for _ in range(unfinished):
            world.add("enrolled")
        world.reconcile()
        task = world.add("enrolled")
        launch = world.launcher.launch

        def launch_noted(launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
            chosen = list(launches)
            before_launch.append(len(commits))
            yield from launch(chosen)

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            sent.append(statement)

        world.launcher.launch = launch_noted  # type: ignore[method-assign]  # this test's hook
        # Both engines are one to events.
        event.listen(world.database.engine, "before_cursor_execute", note)
        event.listen(world.database.engine, "commit", commits.append)
        summary = world.look()
        assert summary.launched == 1 and f"test-{task}-1" in world.launcher.live
        assert before_launch == [1], "the claim's, and no other, before the launch"
        assert len([each for each in sent if not each.startswith(("BEGIN", "PRAGMA"))]) <= 6, sent
        assert summary.statements <= 6 + (database_url.startswith("sqlite"))


def test_failed_run_is_recorded_with_a_remedy(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.launcher.fail(f"test-{task}-1")
    world.reconcile()
    with world.database.read_transaction() as connection:
        remedy = connection.execute(text("SELECT remedy FROM enrollgate_runs")).scalar_one()
    assert remedy == explain(Reason.ACCESS_DENIED).remedy


@pytest.mark.parametrize("waiting", [1, 1200])
def test_idle_pass_sends_the_same_statements_for_any_backlog(world: World, waiting: int) -> None:
    rows = [{"status": "pending"} for _ in range(waiting)]
    world.database.run_in_transaction(
        lambda connection: connection.exec_driver_sql(
            "INSERT INTO download_tasks (status, email, course_url) VALUES "
            + ",".join(
                f"('{row['status']}', 'a@example.com', 'https://a.example/')" for row in rows
            )
        )
    )
    world.reconcile()
    world.clock.advance(10)
    assert world.reconcile().statements <= 4
    assert world.scalar("SELECT COUNT(*) FROM enrollgate_tasks") == waiting
    world.clock.advance(300)
    summaries = [world.reconcile()]
    while summaries[-1].more:
        summaries.append(world.reconcile())
    assert sum(summary.expired for summary in summaries) == waiting
    assert len(summaries) == 1 + waiting // EXPIRY_LIMIT


def test_new_task_is_tracked_when_another_one_ends_at_the_same_time(world: World) -> None:
    old = world.add("processing")
    world.reconcile()
    world.clock.advance(10)
    world.set(old, "failed")
    new = world.add("processing")
    world.reconcile()
    world.clock.advance(299)
    world.reconcile()
    assert world.status(new) == "processing"
    world.clock.advance(1)
    world.reconcile()
    assert world.status(new) == "failed" and len(world.runs(new)) == 1 and world.runs(old) == []


def test_stuck_run_is_stopped_and_its_task_fails_with_the_reason(
    world: World,
) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.launcher.stick(f"test-{task}-1")
    world.reconcile()
    assert world.status(task) == "failed"
    world.reconcile()
    (run,) = world.runs(task)
    assert (run.outcome, run.reason) == ("failed", "ImagePullBackOff")
    assert "no such image" in (run.message or "")
    assert world.launcher.runs == {}


def test_focused_pass_records_a_finished_run_and_fills_its_slot(database_url: str) -> None:
    world = World(database_url, Policy(max_concurrent_runs=1))
    try:
        first, second = world.add("enrolled"), world.add("enrolled")
        world.reconcile()
        world.launcher.succeed(f"test-{first}-1")
        summary = world.reconcile(changed={f"test-{first}-1", "test-999-1"})
        assert world.status(first) == "completed"
        assert world.launcher.live == [f"test-{second}-1"]
        assert (summary.finished, summary.launched, summary.unfinished) == (1, 1, 1)
    finally:
        world.close()


def test_events_of_a_run_are_recorded_at_the_launcher(world: World) -> None:
    done, withdrawn = world.add("enrolled"), world.add("enrolled")
    world.reconcile()
    world.launcher.succeed(f"test-{done}-1")
    world.set(withdrawn, "pending")
    world.reconcile()
    events = [(name, event.kind.value) for name, event in world.launcher.events]
    assert events == [
        (f"test-{done}-1", "Launched"),
        (f"test-{withdrawn}-1", "Launched"),
        (f"test-{done}-1", "Completed"),
        (f"test-{withdrawn}-1", "Revoked"),
    ]
