"""Why a task or a run did not succeed: a closed list of reasons.

Each reason has a meaning, a remedy, and whether a retry can help. The worker, the launchers, the
database and the docs use these reasons and no others.
"""

from dataclasses import dataclass
from enum import StrEnum

# The exit codes of `enrollgate work`.
# The whole course is at the destination.
EXIT_SUCCEEDED = 0
# An unexpected error; its traceback is in the log. A retry can help.
EXIT_UNEXPECTED = 1
# The command line or a setting is wrong. A retry cannot help.
EXIT_USAGE = 2
# An expected failure that a retry cannot fix (`EX_UNAVAILABLE` of sysexits.h).
EXIT_PERMANENT = 69
# An expected failure that a retry may fix (`EX_TEMPFAIL` of sysexits.h).
EXIT_RETRYABLE = 75

# After these, no further attempt is made.
PERMANENT_EXIT_CODES = frozenset({EXIT_USAGE, EXIT_PERMANENT})


class Reason(StrEnum):
    """Why a task or a run did not succeed."""

    # the gate
    ENROLLMENT_TIMEOUT = "EnrollmentTimeout"
    UNEXPECTED_STATUS = "UnexpectedStatus"
    TASK_NOT_FOUND = "TaskNotFound"
    TASK_FAILED = "TaskFailed"
    TASK_COMPLETED = "TaskCompleted"
    TASK_CHANGED = "TaskChanged"
    ENROLLMENT_WITHDRAWN = "EnrollmentWithdrawn"
    INVALID_TASK = "InvalidTask"
    INVALID_COURSE_URL = "InvalidCourseUrl"
    HOST_NOT_ALLOWED = "HostNotAllowed"
    # the course site
    ACCESS_DENIED = "AccessDenied"
    COOKIES_EXPIRED = "CookiesExpired"
    COOKIES_MISSING = "CookiesMissing"
    COOKIES_UNREADABLE = "CookiesUnreadable"
    BOT_CHECK = "BotCheck"
    COURSE_NOT_FOUND = "CourseNotFound"
    DRM_PROTECTED = "DrmProtected"
    UNSUPPORTED_COURSE = "UnsupportedCourse"
    EMPTY_COURSE = "EmptyCourse"
    RATE_LIMITED = "RateLimited"
    SITE_ERROR = "SiteError"
    NETWORK_ERROR = "NetworkError"
    INCOMPLETE_DOWNLOAD = "IncompleteDownload"
    COMMAND_FAILED = "CommandFailed"
    UNSAFE_OUTPUT = "UnsafeOutput"
    # the destination and the machine
    DESTINATION_QUOTA = "DestinationQuota"
    DESTINATION_AUTH = "DestinationAuth"
    DESTINATION_UNAVAILABLE = "DestinationUnavailable"
    DESTINATION_NOT_FOUND = "DestinationNotFound"
    DESTINATION_RATE_LIMITED = "DestinationRateLimited"
    CORRUPT_UPLOAD = "CorruptUpload"
    DISK_FULL = "DiskFull"
    # the run
    CONFIGURATION_ERROR = "ConfigurationError"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STOPPED = "Stopped"
    LOST = "Lost"
    WORKER_CRASHED = "WorkerCrashed"
    NAME_TAKEN = "NameTaken"
    LAUNCH_REFUSED = "LaunchRefused"
    CANCELLED = "Cancelled"
    # the cluster
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    START_ERROR = "StartError"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NEVER_STARTED = "NeverStarted"
    NODE_LOST = "NodeLost"
    OOM_KILLED = "OOMKilled"
    EVICTED = "Evicted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"


# What another cookies file of the account may cure: it closes a hold for one of these.
ABOUT_COOKIES = frozenset(
    {
        Reason.ACCESS_DENIED,
        Reason.COOKIES_EXPIRED,
        Reason.COOKIES_MISSING,
        Reason.COOKIES_UNREADABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means and what to do about it, for the person who reads it."""

    means: str
    remedy: str
    retry_can_help: bool


EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.ENROLLMENT_TIMEOUT: Explanation(
        "The enrollment did not finish in time.",
        "Find out why the Node.js side did not finish the enrollment. Then set the task to a "
        "waiting status or to `enrolled`. If enrollments need more time, raise "
        "ENROLLGATE_ENROLLMENT_TIMEOUT.",
        False,
    ),
    Reason.UNEXPECTED_STATUS: Explanation(
        "The task was waiting or enrolled. Then its status changed to one that Enrollgate does "
        "not know.",
        "Write only the documented statuses, or set your own in ENROLLGATE_STATUS_*.",
        False,
    ),
    Reason.TASK_NOT_FOUND: Explanation(
        "The task's row was deleted.",
        "Nothing, if you deleted it on purpose.",
        False,
    ),
    Reason.TASK_FAILED: Explanation(
        "Node.js set the task to `failed` while its run was active.",
        "Set the task to `enrolled` to start it again.",
        False,
    ),
    Reason.TASK_COMPLETED: Explanation(
        "Another program set the task to `completed` while its run was active.",
        "Let only Enrollgate write that status.",
        False,
    ),
    Reason.TASK_CHANGED: Explanation(
        "The row was replaced, or its e-mail or course URL changed, while its run was active.",
        "Nothing: the row as it is now gets a run of its own while it is `enrolled`.",
        False,
    ),
    Reason.ENROLLMENT_WITHDRAWN: Explanation(
        "The task went from `enrolled` back to a waiting status while its run was active.",
        "Nothing: a new run starts when the task is `enrolled`.",
        False,
    ),
    Reason.INVALID_TASK: Explanation(
        "The row has a value that cannot be used.",
        "Correct the column that the message names. Then set `enrolled` again.",
        False,
    ),
    Reason.INVALID_COURSE_URL: Explanation(
        "`course_url` is not a URL that can be downloaded.",
        "Write an absolute https:// URL of at most 2,048 characters, without a user name or "
        "password.",
        False,
    ),
    Reason.HOST_NOT_ALLOWED: Explanation(
        "The course, or a redirect from it, is on a host that must not be contacted.",
        "If the host is safe, add it to ENROLLGATE_ALLOWED_HOSTS. For plain http or a private "
        "address, list the host itself: a wildcard is not enough.",
        False,
    ),
    Reason.ACCESS_DENIED: Explanation(
        "The site denied this account access to the course or to a lecture (HTTP 403, not "
        "enrolled, or locked).",
        "Check in a browser that the account can open the course. Check that the cookies file is "
        "that account's.",
        False,
    ),
    Reason.COOKIES_EXPIRED: Explanation(
        "The site asked for a login (HTTP 401, or a login page instead of a lecture): the "
        "cookies have expired.",
        "Export the account's cookies again and replace its cookies file.",
        False,
    ),
    Reason.COOKIES_MISSING: Explanation(
        "The site asked for a login, and the account has no cookies file.",
        "Export the account's cookies in the Netscape (cookies.txt) format. Put them into "
        "ENROLLGATE_COOKIES_DIR under the name in the message.",
        False,
    ),
    Reason.COOKIES_UNREADABLE: Explanation(
        "The account's cookies file exists, but it is not readable or not in the Netscape format.",
        "Export the cookies again in the Netscape (cookies.txt) format. Make sure that the "
        "worker can read the file.",
        False,
    ),
    Reason.BOT_CHECK: Explanation(
        "The site checks for bots (a CAPTCHA or a bot wall). Enrollgate does not work around it, "
        "because it is an access control.",
        "Ask the site for access without the check. If you may use another tool there, set it as "
        "ENROLLGATE_DOWNLOAD_COMMAND, with ENROLLGATE_DOWNLOADER=command.",
        False,
    ),
    Reason.COURSE_NOT_FOUND: Explanation(
        "The site has no such course (HTTP 404 or 410).",
        "Check that `course_url` opens in a browser.",
        False,
    ),
    Reason.DRM_PROTECTED: Explanation(
        "The lectures are protected by DRM. Enrollgate does not work around DRM.",
        "Watch them on the site.",
        False,
    ),
    Reason.UNSUPPORTED_COURSE: Explanation(
        "The downloader cannot read this page.",
        "Check that the URL is the course's own page, or use your own downloader with "
        "ENROLLGATE_DOWNLOADER=command.",
        False,
    ),
    Reason.EMPTY_COURSE: Explanation(
        "The course lists nothing that can be downloaded.",
        "Check that the course has lectures of its own.",
        False,
    ),
    Reason.RATE_LIMITED: Explanation(
        "The site asked us to slow down (HTTP 429).",
        "Lower ENROLLGATE_MAX_CONCURRENT_RUNS, or try again later.",
        True,
    ),
    Reason.SITE_ERROR: Explanation(
        "The site failed (HTTP 5xx).",
        "Try again later.",
        True,
    ),
    Reason.NETWORK_ERROR: Explanation(
        "The site or the destination could not be reached, or the connection broke.",
        "Check that the worker's network can reach it.",
        True,
    ),
    Reason.INCOMPLETE_DOWNLOAD: Explanation(
        "A file ended before its announced length, or the download command left it partial or "
        "empty.",
        "Try again. If it fails again, the file is broken at the site.",
        True,
    ),
    Reason.COMMAND_FAILED: Explanation(
        "The download command failed.",
        "Read its last lines in the message, and its log.",
        True,
    ),
    Reason.UNSAFE_OUTPUT: Explanation(
        "The download command left a link or a special file. Such files are never delivered.",
        "Make the command write only regular files, and only into its output folder.",
        False,
    ),
    Reason.DESTINATION_QUOTA: Explanation(
        "The destination is full: the Google account, the shared drive, or the directory's disk.",
        "Free some space or raise the quota.",
        False,
    ),
    Reason.DESTINATION_AUTH: Explanation(
        "The destination rejected the credentials or denied access.",
        "Run `enrollgate doctor` and follow its remedies.",
        False,
    ),
    Reason.DESTINATION_UNAVAILABLE: Explanation(
        "The destination did not answer correctly.",
        "Try again later. Run `enrollgate doctor`.",
        True,
    ),
    Reason.DESTINATION_NOT_FOUND: Explanation(
        "The destination's folder does not exist, or is not shared with the account.",
        "Check that ENROLLGATE_DESTINATION names the right folder. Share the folder with the "
        "account.",
        False,
    ),
    Reason.DESTINATION_RATE_LIMITED: Explanation(
        "The destination accepts no more for now: too many requests, or the daily limit.",
        "Wait until tomorrow, or lower ENROLLGATE_MAX_CONCURRENT_RUNS. Then set `enrolled` again.",
        False,
    ),
    Reason.CORRUPT_UPLOAD: Explanation(
        "A file at the destination differed from the file that was sent. It was removed.",
        "Try again. If it fails again, check the proxies between the worker and the destination.",
        True,
    ),
    Reason.DISK_FULL: Explanation(
        "The disk of the scratch files is full, or a file is larger than its file system allows.",
        "Free some space. Then set `enrolled` again.",
        True,
    ),
    Reason.CONFIGURATION_ERROR: Explanation(
        "A setting of the worker is wrong.",
        "Correct the setting that the message names.",
        False,
    ),
    Reason.DEADLINE_EXCEEDED: Explanation(
        "The run took longer than its time limit.",
        "Raise ENROLLGATE_RUN_TIMEOUT. Delivered files are kept.",
        False,
    ),
    Reason.STOPPED: Explanation(
        "The run was asked to stop.",
        "Nothing: it is resumed if its task is still `enrolled`.",
        True,
    ),
    Reason.LOST: Explanation(
        "The run disappeared (machine restarted, processes killed, Job deleted) more often than it "
        "is launched again.",
        "Find out why runs disappear here; docs/local.md lists what kills local runs. Then set "
        "`enrolled` again.",
        False,
    ),
    Reason.WORKER_CRASHED: Explanation(
        "The worker crashed with an unexpected error.",
        "Read the run's log, and report the error.",
        True,
    ),
    Reason.NAME_TAKEN: Explanation(
        "Something that Enrollgate did not create already has the run's name.",
        "Remove it, or set ENROLLGATE_INSTALLATION to another name.",
        False,
    ),
    Reason.LAUNCH_REFUSED: Explanation(
        "The API server, or the machine in local mode, has refused to create the run for "
        "ENROLLGATE_LAUNCH_TIMEOUT.",
        "Correct what the message names, for example an admission webhook or the run's directory. "
        "Then set `enrolled` again.",
        False,
    ),
    Reason.CANCELLED: Explanation(
        "A person cancelled the task with `enrollgate cancel`.",
        "Nothing, if that was on purpose. `enrollgate retry` starts it again.",
        False,
    ),
    Reason.IMAGE_PULL_BACK_OFF: Explanation(
        "The nodes cannot pull the worker's image.",
        "Check that ENROLLGATE_KUBERNETES__IMAGE names an existing image and that the nodes may "
        "pull it (imagePullSecrets in the job template). Then set `enrolled` again.",
        False,
    ),
    Reason.CREATE_CONTAINER_CONFIG_ERROR: Explanation(
        "The worker's container cannot be created: a Secret or a volume that it needs is missing.",
        "Create what the message names in the Jobs' namespace. Then set `enrolled` again.",
        False,
    ),
    Reason.START_ERROR: Explanation(
        "The container runtime could not start the worker's program. Most often it is not in the "
        "image.",
        "See that ENROLLGATE_KUBERNETES__IMAGE is an image of Enrollgate, and remove the `command` "
        "from the job template or correct it. Then set `enrolled` again.",
        False,
    ),
    Reason.UNSCHEDULABLE: Explanation(
        "No node has room for the worker's pod.",
        "Add nodes, or lower the resource requests in the job template. Then set `enrolled` again.",
        False,
    ),
    Reason.QUOTA_EXCEEDED: Explanation(
        "The namespace's ResourceQuota did not admit a pod of the Job.",
        "Raise the quota or lower ENROLLGATE_MAX_CONCURRENT_RUNS. Then set `enrolled` again.",
        False,
    ),
    Reason.NEVER_STARTED: Explanation(
        "The worker's pod did not start in time.",
        "Read the Events in the message. If the cluster is only slow, raise "
        "ENROLLGATE_KUBERNETES__START_TIMEOUT. Then set `enrolled` again.",
        False,
    ),
    Reason.NODE_LOST: Explanation(
        "The run waits: its pod was deleted, and its node does not confirm that the pod has ended. "
        "The pod may still run, so no second one is started.",
        "Bring the node back: the run then goes on by itself. If the node is off, delete it or "
        "taint it as out-of-service (docs/operations.md).",
        False,
    ),
    Reason.OOM_KILLED: Explanation(
        "The worker used more memory than its limit.",
        "Raise the memory limit: ENROLLGATE_LOCAL_MEMORY_LIMIT in local mode, that of the job "
        "template in Kubernetes.",
        True,
    ),
    Reason.EVICTED: Explanation(
        "The worker used more ephemeral storage than its limit, or its node was drained or short "
        "of storage or memory.",
        "If it was ephemeral storage, raise ENROLLGATE_KUBERNETES__SCRATCH_VOLUME or lower "
        "ENROLLGATE_SCRATCH_LIMIT.",
        True,
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: Explanation(
        "The Job used all its attempts, and nothing is left that says why they failed.",
        "Look at `kubectl describe job` and at the nodes. Then set `enrolled` again.",
        False,
    ),
}

# What may be accepted of single items (ENROLLGATE_INCOMPLETE_REASONS): their site does not give
# them. The others are about the account, the destination or the machine.
ACCEPTABLE_REASONS = (
    Reason.DRM_PROTECTED,
    Reason.UNSUPPORTED_COURSE,
    Reason.ACCESS_DENIED,
    Reason.COURSE_NOT_FOUND,
    Reason.SITE_ERROR,
    Reason.INCOMPLETE_DOWNLOAD,
)

# A run with one of these did not start in time. It is stopped, but its outcome is failed, not
# revoked.
START_FAILURES = frozenset(
    {
        Reason.IMAGE_PULL_BACK_OFF,
        Reason.CREATE_CONTAINER_CONFIG_ERROR,
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.NEVER_STARTED,
    }
)


def explain(reason: Reason) -> Explanation:
    """Return what the reason means and what to do about it."""
    return EXPLANATIONS[reason]


def exit_code(reason: Reason | None) -> int:
    """Return the exit code of `enrollgate work` for this reason; None is success."""
    if reason is None:
        return EXIT_SUCCEEDED
    if reason is Reason.WORKER_CRASHED:
        return EXIT_UNEXPECTED
    return EXIT_RETRYABLE if explain(reason).retry_can_help else EXIT_PERMANENT


class Failure(Exception):
    """An expected failure of a run: a reason, and one sentence with the details.

    The message never holds a secret or an e-mail address. `remedy` says what to do about this very
    failure, if the reason's own remedy is too general. `retry_after` is how many seconds the other
    side asked us to wait, if it did.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        remedy: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after
