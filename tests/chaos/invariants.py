"""The promises of docs/contract.md, checked from outside once everything is quiet.

In come the history of the rows, the runs, the destination's bytes and the words of the site. Out
come sentences on what must never be: an empty list is a pass.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.course_site import Course, Request
from tests.chaos.node import ODD, OPEN, Wanted, Write

# How a run may end if its own row and the faults are to blame. An `AccessDenied`, for example,
# would be a run that was too early.
EXPECTED_REASONS = frozenset(
    {
        "DiskFull",
        "EnrollmentTimeout",
        "EnrollmentWithdrawn",
        "Lost",
        "NetworkError",
        "SiteError",
        "TaskChanged",
        "TaskFailed",
        "TaskNotFound",
        "UnexpectedStatus",
        "WorkerCrashed",
    }
)


def check_writes(history: Sequence[Write]) -> Iterator[str]:
    """Promises 3 and 6: the operators write final statuses, to open rows, and nothing else."""
    for write in history:
        if not write.by_operator:
            continue
        before, after, task = write.before, write.after, write.task_id
        if before is None or after is None:
            yield f"task {task}: an operator inserted or deleted a row: {write}"
            continue
        if replace(before, status=after.status) != after:
            yield f"task {task}: an operator changed more than the status: {write}"
        if before.status not in {*OPEN, ODD}:
            yield f"task {task}: an operator wrote {after.status!r} over {before.status!r}"
        if after.status not in {"completed", "failed"}:
            yield f"task {task}: an operator wrote {after.status!r}"
        if after.status == "completed" and before.status != "enrolled":
            yield f"task {task}: completed, although the row was {before.status!r}"


def check_ends(history: Sequence[Write], reasons: dict[int, list[str | None]]) -> Iterator[str]:
    """Promises 5 and 7: every row has ended, and a failure of ours has its reason."""
    last = {write.task_id: write for write in history}
    for task, write in last.items():
        if write.after is not None and write.after.status in OPEN:
            yield f"task {task} still is {write.after.status!r}"
        is_our_failure = write.by_operator and write.after and write.after.status == "failed"
        if is_our_failure and not any(reasons.get(task, ())):
            yield f"task {task} failed without a reason"
    for task, found in reasons.items():
        for reason in set(found) - EXPECTED_REASONS - {None}:
            yield f"task {task}: no fault explains the reason {reason}"


def check_delivered(completed: Sequence[Course], destination: Path) -> Iterator[str]:
    """Promises 3 and 4: the course of a completed row is there, each item once, byte for byte."""
    for course in completed:
        folders = sorted(destination.glob(f"{course.title} *[[]task-{course.task_id}]"))
        if len(folders) != 1:
            yield f"{course.title}: completed, with {len(folders)} folders"
            continue
        media = Counter(path.read_bytes() for path in folders[0].rglob("*.mp4"))
        if media != Counter(course.lectures):
            yield (
                f"{course.title}: completed, with {media.total()} files, of which "
                f"{(media & Counter(course.lectures)).total()} are the course's lectures"
            )
        if parts := [path.name for path in folders[0].rglob("*part*")]:
            yield f"{course.title}: completed, with partial files: {parts}"


def check_all_files(courses: Sequence[Course], destination: Path) -> Iterator[str]:
    """Promise 3: whatever is delivered has the right bytes, in a course that failed, too."""
    right = {bytes_ for course in courses for bytes_ in course.lectures}
    for path in destination.rglob("*.mp4"):
        if path.read_bytes() not in right:
            yield f"{path.relative_to(destination)} is no lecture"


def check_requests(completed: Sequence[Wanted], log: Sequence[Request]) -> Iterator[str]:
    """Promise 4: a completed row's course was read by that row's account."""
    readers = {(request.course, request.account) for request in log if request.status == 200}
    for wanted in completed:
        if (wanted.course.name, wanted.account.partition("@")[0]) not in readers:
            yield f"{wanted.course.title}: completed, and never read by {wanted.account}"
