"""The promises of docs/contract.md, checked from outside once everything is quiet.

In come the history of the rows, the runs, the destination's bytes and the words of the site. Out
come sentences on what must never be: an empty list is a pass.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from tests.chaos.course_site import Course, Request
from tests.chaos.delivered import Folder, md5
from tests.chaos.node import ODD, OPEN, Wanted, Write
from tests.drive_emulator.store import CORRUPT_MD5

# How a run may end if its own row and the faults are to blame. An `AccessDenied`, for example,
# would be a run that was too early.
EXPECTED_REASONS = frozenset(
    {
        "DestinationRateLimited",
        "DestinationUnavailable",
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


def check_delivered(
    completed: Sequence[Course],
    destinations: Sequence[Sequence[Folder]],
    reported: Mapping[int, Collection[str]],
) -> Iterator[str]:
    """Promises 3 and 4: the course of a completed row is where the run says, each item once.

    `reported` has the URLs of the folders that the successful runs of each task report. A course
    has one folder at each destination, at most.
    """
    for course in completed:
        start, end = f"{course.title} ", f"[task-{course.task_id}]"
        places = [
            [each for each in folders if each.name.startswith(start) and each.name.endswith(end)]
            for folders in destinations
        ]
        if any(len(found) > 1 for found in places):
            yield f"{course.title}: several folders at one destination: {places}"
        urls = reported.get(course.task_id, ())
        right = Counter(md5(lecture) for lecture in course.lectures)
        named = [folder for found in places for folder in found if folder.url in urls]
        if not named:
            yield f"{course.title}: completed, without the folder that its runs report: {urls}"
        for folder in named:
            videos = Counter(folder.videos)
            if videos != right:
                yield (
                    f"{course.title}: completed, with {videos.total()} files, of which "
                    f"{(videos & right).total()} are the course's lectures, in {folder.url}"
                )
            if folder.parts:
                yield f"{course.title}: completed, with partial files: {folder.parts}"


def check_all_files(courses: Sequence[Course], folders: Sequence[Folder]) -> Iterator[str]:
    """Promise 3: whatever is delivered has the right bytes, in a course that failed, too.

    It lies in the folder of its own course. What the Drive has spoiled may be left by a worker that
    was killed before it could look at it: such a course is not completed (`check_delivered`).
    """
    for folder in folders:
        right = {
            md5(lecture)
            for course in courses
            if folder.name.startswith(f"{course.title} ")
            and folder.name.endswith(f"[task-{course.task_id}]")
            for lecture in course.lectures
        }
        if wrong := set(folder.videos) - right - {CORRUPT_MD5}:
            yield f"{len(wrong)} files in {folder.name!r} are no lectures of it"


def check_requests(completed: Sequence[Wanted], log: Sequence[Request]) -> Iterator[str]:
    """Promise 4: a completed row's course was read by that row's account."""
    readers = {(request.course, request.account) for request in log if request.status == 200}
    for wanted in completed:
        if (wanted.course.name, wanted.account.partition("@")[0]) not in readers:
            yield f"{wanted.course.title}: completed, and never read by {wanted.account}"


def check_faults(times: Mapping[str, int]) -> Iterator[str]:
    """Check that each fault has happened: a promise that nothing has tested proves nothing."""
    for fault, count in times.items():
        if count == 0:
            yield f"the fault never happened: {fault}"
