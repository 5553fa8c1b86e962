"""Why a task or a run ended badly: the closed list, and for each word what it means, whether a retry can help, and what
to do about it. The worker, the launchers, the database and the docs all speak these words and no others.
"""

from dataclasses import dataclass
from enum import StrEnum

EXIT_SUCCEEDED = 0
"""The course is at the destination, complete."""
EXIT_UNEXPECTED = 1
"""An error nobody foresaw (a traceback is in the log). A retry can help."""
EXIT_USAGE = 2
"""The command line or a setting was wrong. A retry cannot help."""
EXIT_PERMANENT = 69
"""A foreseen failure that a retry cannot mend (`EX_UNAVAILABLE` of sysexits.h)."""
EXIT_RETRYABLE = 75
"""A foreseen failure that a retry may mend (`EX_TEMPFAIL` of sysexits.h)."""

PERMANENT_EXIT_CODES = frozenset({EXIT_USAGE, EXIT_PERMANENT})
"""The exit codes of `enrollgate work` after which no further try is made."""


class Reason(StrEnum):
    """One word for why a task or a run did not end well."""

    # the gate
    ENROLLMENT_TIMEOUT = "EnrollmentTimeout"
    UNEXPECTED_STATUS = "UnexpectedStatus"
    TASK_NOT_FOUND = "TaskNotFound"
    TASK_FAILED = "TaskFailed"
    TASK_COMPLETED = "TaskCompleted"
    ENROLLMENT_WITHDRAWN = "EnrollmentWithdrawn"
    INVALID_TASK = "InvalidTask"
    INVALID_COURSE_URL = "InvalidCourseUrl"
    HOST_NOT_ALLOWED = "HostNotAllowed"
    # the course site
    ACCESS_DENIED = "AccessDenied"
    COOKIES_EXPIRED = "CookiesExpired"
    COOKIES_UNREADABLE = "CookiesUnreadable"
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
    # the cluster
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NEVER_STARTED = "NeverStarted"
    OOM_KILLED = "OOMKilled"
    EVICTED = "Evicted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one reason means to the person who reads it."""

    means: str
    remedy: str
    retry_can_help: bool


EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.ENROLLMENT_TIMEOUT: Explanation(
        "The enrollment was still unfinished when its time was over.",
        "See why the Node.js side did not finish the enrollment, then set the task back to a waiting status or to "
        "`enrolled`; raise ENROLLGATE_ENROLLMENT_TIMEOUT if enrollments really take longer.",
        False,
    ),
    Reason.UNEXPECTED_STATUS: Explanation(
        "The task was waiting or enrolled, and its status then became a word that Enrollgate does not know.",
        "Write only the documented status words, or name yours in ENROLLGATE_STATUS_*.",
        False,
    ),
    Reason.TASK_NOT_FOUND: Explanation(
        "The task's row was deleted.", "Nothing, if that was meant.", False
    ),
    Reason.TASK_FAILED: Explanation(
        "Node.js set the task to `failed` while it ran.",
        "Set the task back to `enrolled` to start it afresh.",
        False,
    ),
    Reason.TASK_COMPLETED: Explanation(
        "Someone else set the task to `completed` while it ran.",
        "Leave that word to Enrollgate.",
        False,
    ),
    Reason.ENROLLMENT_WITHDRAWN: Explanation(
        "The task went back from `enrolled` to a waiting status while it ran.",
        "Nothing: the task runs again once it is `enrolled`.",
        False,
    ),
    Reason.INVALID_TASK: Explanation(
        "The row cannot be run as it stands.",
        "Mend the column that the message names, then set `enrolled` again.",
        False,
    ),
    Reason.INVALID_COURSE_URL: Explanation(
        "`course_url` is not a URL that can be downloaded from.",
        "Write an absolute https:// URL of at most 2,048 characters, without a user name or password.",
        False,
    ),
    Reason.HOST_NOT_ALLOWED: Explanation(
        "The course, or a redirect from it, is on a host that may not be contacted.",
        "List the host in ENROLLGATE_ALLOWED_HOSTS if it may be. Plain http and private addresses need it literally.",
        False,
    ),
    Reason.ACCESS_DENIED: Explanation(
        "The site refused this account the course, or a lecture (HTTP 403, not enrolled, or locked).",
        "See in a browser that the account may open it and that its cookies file is that account's.",
        False,
    ),
    Reason.COOKIES_EXPIRED: Explanation(
        "The site asked for a login (HTTP 401, or its login page came in place of a lecture): the cookies have expired.",
        "Export the account's cookies again and replace its cookies file.",
        False,
    ),
    Reason.COOKIES_UNREADABLE: Explanation(
        "The account's cookies file exists but cannot be read as a Netscape cookies file.",
        "Export it again in the Netscape (cookies.txt) format and see that the worker may read it.",
        False,
    ),
    Reason.COURSE_NOT_FOUND: Explanation(
        "The site has no such course (HTTP 404 or 410).",
        "See that `course_url` opens in a browser.",
        False,
    ),
    Reason.DRM_PROTECTED: Explanation(
        "The lectures are DRM-protected. Enrollgate does not work around DRM.",
        "Watch them on the site.",
        False,
    ),
    Reason.UNSUPPORTED_COURSE: Explanation(
        "The downloader does not know how to read this page.",
        "See that the URL is the course's own page, or plug in a command with ENROLLGATE_DOWNLOADER=command.",
        False,
    ),
    Reason.EMPTY_COURSE: Explanation(
        "The course lists nothing that can be downloaded.",
        "See that the course has lectures of its own.",
        False,
    ),
    Reason.RATE_LIMITED: Explanation(
        "The site asked to slow down (HTTP 429).",
        "Lower ENROLLGATE_MAX_CONCURRENT_RUNS, or try later.",
        True,
    ),
    Reason.SITE_ERROR: Explanation("The site failed (HTTP 5xx).", "Try again later.", True),
    Reason.NETWORK_ERROR: Explanation(
        "The site or the destination could not be reached, or the connection broke.",
        "See that the worker's network reaches it.",
        True,
    ),
    Reason.INCOMPLETE_DOWNLOAD: Explanation(
        "A file ended before its announced length.",
        "Try again; if it stays, the file is broken at the site.",
        True,
    ),
    Reason.COMMAND_FAILED: Explanation(
        "The download command ended with an error.",
        "Read its last lines in the message, and its log.",
        True,
    ),
    Reason.UNSAFE_OUTPUT: Explanation(
        "The download command left a symbolic link or a special file, which is never delivered.",
        "Let the command write regular files into its output folder only.",
        False,
    ),
    Reason.DESTINATION_QUOTA: Explanation(
        "The destination has no room left for this account.",
        "Free some space or raise the quota.",
        False,
    ),
    Reason.DESTINATION_AUTH: Explanation(
        "The destination refused the credentials or the access.",
        "Run `enrollgate doctor` and follow it.",
        False,
    ),
    Reason.DESTINATION_UNAVAILABLE: Explanation(
        "The destination did not answer properly.",
        "Try again later; run `enrollgate doctor`.",
        True,
    ),
    Reason.DESTINATION_NOT_FOUND: Explanation(
        "The destination's folder does not exist, or is not shared with the account.",
        "See that ENROLLGATE_DESTINATION has the right folder and share it with the account.",
        False,
    ),
    Reason.DESTINATION_RATE_LIMITED: Explanation(
        "The destination takes no more for now: too many requests, or the day's limit.",
        "Set the task back to `enrolled` tomorrow, or lower ENROLLGATE_MAX_CONCURRENT_RUNS.",
        False,
    ),
    Reason.CORRUPT_UPLOAD: Explanation(
        "A file at the destination was not the one that was sent; it was removed.",
        "Try again; if it stays, see what stands between the worker and the destination.",
        True,
    ),
    Reason.DISK_FULL: Explanation(
        "The disk for scratch files or the destination is full.",
        "Free some space; then set `enrolled` again.",
        True,
    ),
    Reason.CONFIGURATION_ERROR: Explanation(
        "A setting of the worker is wrong.", "Mend the setting that the message names.", False
    ),
    Reason.DEADLINE_EXCEEDED: Explanation(
        "The run took longer than its time limit.",
        "Raise ENROLLGATE_RUN_TIMEOUT; what is delivered is kept.",
        False,
    ),
    Reason.STOPPED: Explanation(
        "The run was asked to stop.", "Nothing: it is resumed if its task still wants it.", True
    ),
    Reason.LOST: Explanation(
        "The run vanished without a word (machine restarted, Job deleted), more often than is tried again.",
        "See why runs vanish here; then set `enrolled` again.",
        False,
    ),
    Reason.WORKER_CRASHED: Explanation(
        "The worker died of an error nobody foresaw.", "Read the run's log, and report it.", True
    ),
    Reason.NAME_TAKEN: Explanation(
        "Something that is not ours already has the run's name.",
        "Remove it, or give this installation another ENROLLGATE_INSTALLATION.",
        False,
    ),
    Reason.IMAGE_PULL_BACK_OFF: Explanation(
        "The nodes cannot pull the worker's image.",
        "See that ENROLLGATE_KUBERNETES__IMAGE names an image that exists and that the nodes may pull "
        "(imagePullSecrets in the job template); then set `enrolled` again.",
        False,
    ),
    Reason.CREATE_CONTAINER_CONFIG_ERROR: Explanation(
        "The worker's container cannot be made: a Secret or a volume that it wants is not there.",
        "Create what the message names in the Jobs' namespace; then set `enrolled` again.",
        False,
    ),
    Reason.UNSCHEDULABLE: Explanation(
        "The worker's pod fits on no node.",
        "Add nodes, or lower what the job template asks for; then set `enrolled` again.",
        False,
    ),
    Reason.QUOTA_EXCEEDED: Explanation(
        "The namespace's ResourceQuota let no pod of the Job in.",
        "Raise the quota or lower ENROLLGATE_MAX_CONCURRENT_RUNS; then set `enrolled` again.",
        False,
    ),
    Reason.NEVER_STARTED: Explanation(
        "The worker's pod did not begin in its time.",
        "Read the Events in the message; raise ENROLLGATE_KUBERNETES__START_TIMEOUT if the cluster is only slow; then "
        "set `enrolled` again.",
        False,
    ),
    Reason.OOM_KILLED: Explanation(
        "The worker used more memory than its limit.",
        "Raise the memory limit in the job template.",
        True,
    ),
    Reason.EVICTED: Explanation(
        "The worker used more ephemeral storage than its limit, or its node was short of it or of memory, or drained.",
        "Raise ENROLLGATE_KUBERNETES__SCRATCH_VOLUME or lower ENROLLGATE_SCRATCH_LIMIT if it was for ephemeral storage.",
        True,
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: Explanation(
        "The Job failed as often as it may, and nothing is left that says why.",
        "Look at `kubectl describe job` and at the nodes; then set `enrolled` again.",
        False,
    ),
}

NOT_BEGUN = frozenset(
    {
        Reason.IMAGE_PULL_BACK_OFF,
        Reason.CREATE_CONTAINER_CONFIG_ERROR,
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.NEVER_STARTED,
    }
)
"""Why a run is stopped that has not begun in its time: it has failed, nobody has revoked it."""


def explain(reason: Reason) -> Explanation:
    """The meaning and the remedy of a reason."""
    return EXPLANATIONS[reason]


def exit_code(reason: Reason | None) -> int:
    """The exit code by which `enrollgate work` reports this reason; `None` is success."""
    if reason is None:
        return EXIT_SUCCEEDED
    if reason is Reason.WORKER_CRASHED:
        return EXIT_UNEXPECTED
    return EXIT_RETRYABLE if explain(reason).retry_can_help else EXIT_PERMANENT


class Failure(Exception):
    """A foreseen failure of a run: a reason of the closed list and one sentence with the particulars.

    The message never carries a secret or an e-mail address. `remedy` says what to do about this very failure, where
    the remedy of the reason is too general. `retry_after` is the number of seconds the other side asked
    us to wait, if it did.
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
