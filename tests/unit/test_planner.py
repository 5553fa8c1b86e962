"""The whole decision matrix: task state by run state by what the launcher observed.

A reader can compare it with the contract line by line.
"""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.planner import (
    Action,
    Adopt,
    DiscardOrphan,
    Explain,
    Launch,
    Record,
    Stop,
    StopOrphan,
    is_settled,
    plan,
)
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState

POLICY = Policy(max_lost_runs=2)
NAME = "test-7-1"
HERE = RunPlace("local", "dir-1", "host-1", "machine-1", "/var/lib/enrollgate", "boot-1")
DONE = Report(None, "the course is complete")
DENIED = Report(Reason.ACCESS_DENIED, "403")
STATUS = {
    TaskState.WAITING: "processing",
    TaskState.ENROLLED: "enrolled",
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.UNKNOWN: "odd",
    TaskState.MISSING: None,
}
SEEN = {
    "absent": None,
    "live": Observation(NAME, Phase.LIVE),
    "succeeded": Observation(NAME, Phase.SUCCEEDED, DONE),
    "failed": Observation(NAME, Phase.FAILED, DENIED),
}


def make_run(task: TaskState, state: RunState, lost_before: int = 0) -> UnfinishedRun:
    stopping = state is RunState.STOPPING
    return UnfinishedRun(
        run_id=1,
        task_id=7,
        run_number=1,
        name=NAME,
        state=state,
        task=task,
        task_status=STATUS[task],
        email="ada@example.com",
        course_url="https://courses.example.com/1",
        place=HERE,
        lost_before=lost_before,
        stop_reason=Reason.TASK_FAILED if stopping else None,
        stop_message="why" if stopping else "",
    )


def decide(task: TaskState, state: RunState, seen: str, lost_before: int = 0) -> Action | None:
    observation = SEEN[seen]
    actions = plan(
        [make_run(task, state, lost_before)],
        {} if observation is None else {NAME: observation},
        POLICY,
        HERE,
    )
    assert len(actions) <= 1
    return actions[0] if actions else None


def short(action: Action | None) -> str:
    match action:
        case None:
            return "nothing"
        case Launch():
            return "launch"
        case Adopt():
            return "adopt"
        case Stop(_, _, reason, _, _, fail_task):
            return f"stop {reason}" + (" and fail the task" if fail_task else "")
        case Explain(_, seen):
            return f"explain {seen.report.reason if seen.report else 'nothing'}"
        case Record(_, _, outcome, reason):
            task_to = action.task_to
            return (
                f"record {outcome}"
                + (f" {reason}" if reason else "")
                + (f", task to {task_to}" if task_to else "")
            )
        case _:
            raise AssertionError(action)


C, L, S = RunState.CLAIMED, RunState.LAUNCHED, RunState.STOPPING
MATRIX = [
    # task, state of the run, action if the run is absent, action if it is live
    (TaskState.ENROLLED, C, "launch", "adopt"),
    (TaskState.ENROLLED, L, "record lost Lost", "nothing"),
    (TaskState.WAITING, C, "record revoked EnrollmentWithdrawn", "stop EnrollmentWithdrawn"),
    (TaskState.WAITING, L, "record revoked EnrollmentWithdrawn", "stop EnrollmentWithdrawn"),
    (TaskState.FAILED, C, "record revoked TaskFailed", "stop TaskFailed"),
    (TaskState.FAILED, L, "record revoked TaskFailed", "stop TaskFailed"),
    (TaskState.COMPLETED, C, "record revoked TaskCompleted", "stop TaskCompleted"),
    (TaskState.COMPLETED, L, "record revoked TaskCompleted", "stop TaskCompleted"),
    (TaskState.MISSING, C, "record revoked TaskNotFound", "stop TaskNotFound"),
    (TaskState.MISSING, L, "record revoked TaskNotFound", "stop TaskNotFound"),
    (
        TaskState.UNKNOWN,
        C,
        "record failed UnexpectedStatus, task to failed",
        "stop UnexpectedStatus and fail the task",
    ),
    (
        TaskState.UNKNOWN,
        L,
        "record failed UnexpectedStatus, task to failed",
        "stop UnexpectedStatus and fail the task",
    ),
]


@pytest.mark.parametrize(("task", "state", "absent", "live"), MATRIX)
def test_absent_or_live_run_gets_the_action_of_the_matrix(
    task: TaskState, state: RunState, absent: str, live: str
) -> None:
    assert short(decide(task, state, "absent")) == absent
    assert short(decide(task, state, "live")) == live


@pytest.mark.parametrize(("task", "state"), list(product(TaskState, (C, L))))
def test_result_moves_only_an_enrolled_task(task: TaskState, state: RunState) -> None:
    succeeded, failed = (
        short(decide(task, state, "succeeded")),
        short(decide(task, state, "failed")),
    )
    if task is TaskState.ENROLLED:
        assert succeeded == "record succeeded, task to completed"
        assert failed == "record failed AccessDenied, task to failed"
    elif task is TaskState.UNKNOWN:
        assert succeeded == failed == "record failed UnexpectedStatus, task to failed"
    else:
        assert succeeded == "record succeeded"
        assert failed == "record failed AccessDenied"


@pytest.mark.parametrize("task", TaskState)
def test_stopping_run_is_revoked_once_it_has_ended_for_any_task(
    task: TaskState,
) -> None:
    assert short(decide(task, S, "live")) == "stop TaskFailed"
    for seen in ("absent", "succeeded", "failed"):
        assert short(decide(task, S, seen)) == "record revoked TaskFailed"


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (Report(Reason.NETWORK_ERROR, "x"), Reason.NETWORK_ERROR),
        (Report(None, "", items_delivered=2, items_failed=3), Reason.INCOMPLETE_DOWNLOAD),
    ],
)
def test_success_with_a_report_of_failures_is_no_success(report: Report, reason: Reason) -> None:
    seen = Observation(NAME, Phase.SUCCEEDED, report)
    (action,) = plan([make_run(TaskState.ENROLLED, L)], {NAME: seen}, POLICY, HERE)
    assert short(action) == f"record failed {reason}, task to failed"


def test_lost_run_is_replaced_up_to_the_limit() -> None:
    assert short(decide(TaskState.ENROLLED, L, "absent", lost_before=1)) == "record lost Lost"
    assert (
        short(decide(TaskState.ENROLLED, L, "absent", lost_before=2))
        == "record failed Lost, task to failed"
    )


LOST_NODE = Observation(NAME, Phase.LIVE, Report(Reason.NODE_LOST, "it may still run"))


@pytest.mark.parametrize(
    ("task", "state", "before", "action"),
    [
        (TaskState.ENROLLED, L, None, "explain NodeLost"),
        (TaskState.ENROLLED, L, Reason.NODE_LOST, "nothing"),
        (TaskState.ENROLLED, C, None, "adopt"),
        (TaskState.FAILED, L, Reason.NODE_LOST, "stop TaskFailed"),
    ],
)
def test_run_of_a_lost_node_is_explained_once_and_never_replaced(
    task: TaskState, state: RunState, before: Reason | None, action: str
) -> None:
    run = replace(make_run(task, state), stop_reason=before)
    actions = plan([run], {NAME: LOST_NODE}, POLICY, HERE)
    assert short(actions[0] if actions else None) == action
    assert not is_settled(run, LOST_NODE)


def test_run_whose_node_is_back_goes_on_without_an_explanation() -> None:
    run = replace(make_run(TaskState.ENROLLED, L), stop_reason=Reason.NODE_LOST)
    live = Observation(NAME, Phase.LIVE)
    (action,) = plan([run], {NAME: live}, POLICY, HERE)
    assert short(action) == "explain nothing"
    assert not is_settled(run, live)


def test_orphans_are_stopped_while_live_and_then_discarded() -> None:
    live, failed = Observation(NAME, Phase.LIVE), Observation(NAME, Phase.FAILED, DENIED)
    assert plan([], {NAME: live}, POLICY, HERE) == (StopOrphan(live),)
    assert plan([], {NAME: failed}, POLICY, HERE) == (DiscardOrphan(failed),)


def test_run_order_names_the_cookies_file_and_never_the_account() -> None:
    action = decide(TaskState.ENROLLED, C, "absent")
    assert isinstance(action, Launch)
    assert action.order.cookies_name.startswith("cookies-") and "ada" not in repr(action.order)


@pytest.mark.parametrize("claim", [None, "", "another"])
def test_settled_run_needs_no_action_and_lets_no_orphan_live(claim: str | None) -> None:
    settled = 0
    for task, state, name, is_changed in product(TaskState, RunState, SEEN, (False, True)):
        run, seen = replace(make_run(task, state), is_changed=is_changed), SEEN[name]
        seen = None if seen is None else replace(seen, claim_id=claim)
        if is_settled(run, seen):
            settled += 1
            assert seen is not None
            assert plan([run], {run.name: seen}, POLICY, HERE) == ()
    assert settled == (0 if claim == "another" else 1)


@given(
    task=st.sampled_from(TaskState),
    state=st.sampled_from((C, L, S)),
    seen=st.sampled_from(sorted(SEEN)),
    lost=st.integers(0, 5),
)
def test_launch_needs_enrolled_and_completion_needs_success(
    task: TaskState, state: RunState, seen: str, lost: int
) -> None:
    action = decide(task, state, seen, lost)
    if isinstance(action, Launch):
        assert task is TaskState.ENROLLED and state is C and seen == "absent"
    if isinstance(action, Record) and action.task_to is TaskState.COMPLETED:
        assert (
            action.outcome is Outcome.SUCCEEDED
            and task is TaskState.ENROLLED
            and seen == "succeeded"
        )
    if isinstance(action, Record) and action.task_to is not None:
        assert task in (TaskState.ENROLLED, TaskState.UNKNOWN)


@pytest.mark.parametrize("task", TaskState)
@pytest.mark.parametrize("state", [C, L])
@pytest.mark.parametrize("seen", SEEN)
def test_changed_row_moves_only_by_what_node_wrote(
    task: TaskState, state: RunState, seen: str
) -> None:
    run = replace(make_run(task, state), is_changed=True)
    observed = {} if SEEN[seen] is None else {NAME: SEEN[seen]}
    (action,) = plan([run], {name: each for name, each in observed.items() if each}, POLICY, HERE)
    assert isinstance(action, Stop | Record)
    assert not (isinstance(action, Stop) and action.fail_task)
    assert not (isinstance(action, Record) and action.move_task)
    if task in (TaskState.ENROLLED, TaskState.UNKNOWN):
        assert action.reason is Reason.TASK_CHANGED


@pytest.mark.parametrize("state", [C, L, S])
def test_live_orphan_of_another_claim_is_stopped_and_its_run_waits(state: RunState) -> None:
    run = replace(make_run(TaskState.ENROLLED, state), claim_id="ours")
    orphan = Observation(NAME, Phase.LIVE, claim_id="another")
    assert plan([run], {NAME: orphan}, POLICY, HERE) == (StopOrphan(orphan),)


def test_ended_orphan_of_another_claim_is_discarded_and_its_run_launched() -> None:
    run = replace(make_run(TaskState.ENROLLED, C), claim_id="ours")
    orphan = Observation(NAME, Phase.SUCCEEDED, DONE, claim_id="another")
    launched, discarded = plan([run], {NAME: orphan}, POLICY, HERE)
    assert isinstance(launched, Launch) and launched.order.claim_id == "ours"
    assert discarded == DiscardOrphan(orphan)


def test_run_that_is_ending_is_not_adopted() -> None:
    run = make_run(TaskState.ENROLLED, C)
    assert plan([run], {NAME: Observation(NAME, Phase.LIVE, is_ending=True)}, POLICY, HERE) == ()


OTHER_PLACES = {
    "another work directory": replace(HERE, place_id="dir-2", work_dir="/root/var"),
    "another host with a copy of the machine id": replace(HERE, host="host-2", boot_id="boot-2"),
    "another host of the same name": replace(HERE, machine_id="machine-2", boot_id="boot-2"),
    "a cluster": RunPlace("kubernetes", "courses"),
}
SAME_PLACES = {
    "here": HERE,
    "before a reboot": replace(HERE, boot_id="boot-0"),
    "another container of this kernel": replace(HERE, host="host-2", machine_id="", work_dir="/w"),
}


@pytest.mark.parametrize("place", OTHER_PLACES.values(), ids=OTHER_PLACES)
@pytest.mark.parametrize("state", [RunState.CLAIMED, RunState.LAUNCHED, RunState.STOPPING])
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("task", TaskState)
def test_run_elsewhere_is_never_decided_about(
    place: RunPlace, state: RunState, seen: str, task: TaskState
) -> None:
    observation = SEEN[seen]
    observed = {} if observation is None else {NAME: observation}
    assert plan([replace(make_run(task, state), place=place)], observed, POLICY, HERE) == ()


@pytest.mark.parametrize("place", SAME_PLACES.values(), ids=SAME_PLACES)
def test_absent_run_of_the_same_place_is_lost(place: RunPlace) -> None:
    run = replace(make_run(TaskState.ENROLLED, RunState.LAUNCHED), place=place)
    (action,) = plan([run], {}, POLICY, HERE)
    assert isinstance(action, Record) and action.outcome is Outcome.LOST
    was_restarted = place.boot_id != HERE.boot_id
    assert ("restarted" in action.message, "killed" in action.message) == (
        was_restarted,
        not was_restarted,
    )


def test_run_of_another_namespace_is_not_observed_by_a_cluster_operator() -> None:
    here = RunPlace("kubernetes", "courses", machine_id="uid-1")
    run = replace(make_run(TaskState.ENROLLED, RunState.LAUNCHED), place=here)
    for other in ({"place_id": "other"}, {"machine_id": "uid-2"}, {"machine_id": ""}):
        assert plan([run], {}, POLICY, replace(here, **other)) == ()
        assert plan([replace(run, place=replace(here, **other))], {}, POLICY, here) == ()
    (action,) = plan([run], {}, POLICY, here)
    assert isinstance(action, Record) and action.outcome is Outcome.LOST
