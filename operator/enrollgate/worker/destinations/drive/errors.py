"""What Drive says, and what that means to a run: one table of rules, read by a pure function and by docs/destinations.md.

The reason words are those of https://developers.google.com/workspace/drive/api/guides/handle-errors. A failure's message is made
of our own words and Drive's short reason words only: never of a URL or a body, which may carry credentials.
"""

import http.client
import json
import re
from dataclasses import dataclass

import google.auth.exceptions
import httplib2
from googleapiclient.errors import HttpError

from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason, explain


class Unreadable(Exception):
    """An answer of success that is not what was asked for: cut short, or not Drive's at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` 0: no HTTP answer."""

    status: int
    words: tuple[str, ...] = ()
    """Drive's reason words; for status 0, ours (see `no_answer`)."""
    message: str = ""
    """Drive's sentence; looked at, never passed on."""
    retry_after: float | None = None
    """Seconds, if Drive said."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of refusal or accident."""

    says: str
    """As the documentation names it."""
    reason: Reason
    message: str
    remedy: str
    retried: bool
    """Whether the same request is sent again, with growing pauses, before it is a failure."""

    @property
    def sentence(self) -> str:
        """Message and remedy, as a user reads them."""
        return f"{self.message}: {self.remedy}"


LOGIN_EXPIRED = Rule(
    "401 `authError`, after the token was renewed",
    Reason.DESTINATION_AUTH,
    "Google Drive does not accept the credentials",
    "see that the key or the login is not revoked; a user logs in again with `enrollgate drive login`",
    False,
)
LOGIN_REVOKED = Rule(
    "the token endpoint refuses (`invalid_grant`, `unauthorized_client`, unknown key)",
    Reason.DESTINATION_AUTH,
    "Google gives no token for these credentials (expired, revoked, or delegation not granted)",
    "make a new key, log in again with `enrollgate drive login`, or grant the delegation of the scope to the account",
    False,
)
NO_STORAGE = Rule(
    "403 `storageQuotaExceeded` for a service account",
    Reason.DESTINATION_QUOTA,
    "a service account has no storage of its own, so it cannot own files in a folder of My Drive",
    "use a folder on a shared drive (account as content manager), or ENROLLGATE_DRIVE_SUBJECT with domain-wide delegation, or a "
    "user's login (`enrollgate drive login`)",
    False,
)
STORAGE_FULL = Rule(
    "403 `storageQuotaExceeded`, `quotaExceeded`",
    Reason.DESTINATION_QUOTA,
    "the Google account's storage is full",
    "free some space or raise the storage quota",
    False,
)
TOO_MANY_FILES = Rule(
    "403 `teamDriveFileLimitExceeded`, `numChildrenInNonRootLimitExceeded`, `activeItemCreationLimitExceeded`, "
    "`teamDriveHierarchyTooDeep`",
    Reason.DESTINATION_QUOTA,
    "the shared drive, the folder or the account holds as many items as Drive allows",
    "remove items, or name another folder in ENROLLGATE_DESTINATION",
    False,
)
DAILY_LIMIT = Rule(
    "403 `dailyLimitExceeded`",
    Reason.DESTINATION_RATE_LIMITED,
    "the day's limit of Google Drive is used up",
    "try again tomorrow",
    False,
)
TOO_FAST = Rule(
    "403 `userRateLimitExceeded`, `rateLimitExceeded`, `sharingRateLimitExceeded`; 429",
    Reason.DESTINATION_RATE_LIMITED,
    "Google Drive still asks to slow down after many tries; the limit of 750 GB a day and user says so, too",
    "try again tomorrow, or lower ENROLLGATE_MAX_CONCURRENT_RUNS",
    True,
)
ASKED_TO_WAIT = Rule(
    "403, 429 or 5xx of the retried kinds, with a `Retry-After` above 300 s",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive asks to wait longer than a run's try does",
    "nothing, the run's next try begins later; or lower ENROLLGATE_MAX_CONCURRENT_RUNS",
    False,
)
API_DISABLED = Rule(
    "403 `accessNotConfigured`, `SERVICE_DISABLED`",
    Reason.DESTINATION_AUTH,
    "the Google Drive API is not enabled in the credentials' Google Cloud project",
    "enable the Google Drive API there",
    False,
)
SCOPE_TOO_SMALL = Rule(
    "403 `insufficientPermissions`, `ACCESS_TOKEN_SCOPE_INSUFFICIENT`",
    Reason.DESTINATION_AUTH,
    "the login does not include access to Google Drive",
    "log in again with `enrollgate drive login`, or give the workload the scope https://www.googleapis.com/auth/drive",
    False,
)
NO_PERMISSION = Rule(
    "403 `insufficientFilePermissions`, `domainPolicy`, or any other 403",
    Reason.DESTINATION_AUTH,
    "the account may not write to the folder",
    "share the folder with the account as editor (on a shared drive: as content manager)",
    False,
)
NOT_FOUND = Rule(
    "404 `notFound`",
    Reason.DESTINATION_NOT_FOUND,
    "the folder does not exist, or is not shared with the account",
    "see that ENROLLGATE_DESTINATION has the folder's id and share the folder with the account",
    False,
)
SERVER_ERROR = Rule(
    "408, 500, 502, 503, 504, any 5xx",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive answers with errors of its own",
    "try again later",
    True,
)
UNREADABLE = Rule(
    "a truncated or unreadable response, or 200 with something else than JSON",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive's answers end early or cannot be read",
    "see what proxy stands between the worker and Google; try again later",
    True,
)
STUCK = Rule(
    "308 without progress, with or without `Range`, or again and again with less than before",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive takes no more bytes of the upload",
    "try again later; the upload goes on where it stopped",
    True,
)
CUT = Rule(
    "no connection, a connection cut mid-chunk, or 60 s of socket_timeout",
    Reason.NETWORK_ERROR,
    "Google Drive cannot be reached, or the connection breaks",
    "see that the worker's network reaches it",
    True,
)
REFUSED = Rule(
    "any other answer",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive refuses the request",
    "run `enrollgate doctor`; if it finds nothing, report this",
    False,
)
SESSION_GONE = Rule(
    "404 or 410 on an upload's session, again and again",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive forgets uploads before they are complete",
    "try again later; a forgotten session is begun anew three times",
    True,
)
CORRUPT = Rule(
    "200, but another size or `md5Checksum` than the file's",
    Reason.CORRUPT_UPLOAD,
    "the file at Google Drive is not the one that was sent; it is put into the bin",
    "try again; if it stays, see what stands between the worker and Google",
    True,
)
RULES = (
    LOGIN_EXPIRED,
    LOGIN_REVOKED,
    NO_STORAGE,
    STORAGE_FULL,
    TOO_MANY_FILES,
    DAILY_LIMIT,
    TOO_FAST,
    ASKED_TO_WAIT,
    API_DISABLED,
    SCOPE_TOO_SMALL,
    NO_PERMISSION,
    NOT_FOUND,
    SERVER_ERROR,
    UNREADABLE,
    STUCK,
    CUT,
    SESSION_GONE,
    CORRUPT,
    REFUSED,
)
"""All of them, as the documentation lists them."""

_NO_ANSWER = {"cut": CUT, "unreadable": UNREADABLE, "stuck": STUCK, "revoked": LOGIN_REVOKED}
_ACCIDENTS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((google.auth.exceptions.TransportError,), "cut"),
    ((google.auth.exceptions.GoogleAuthError,), "revoked"),
    ((OSError, httplib2.ServerNotFoundError), "cut"),
    ((http.client.HTTPException, httplib2.HttpLib2Error, Unreadable), "unreadable"),
)
"""What the client raises, the narrow before the wide."""
_WORDS: dict[str, Rule] = {
    "storageQuotaExceeded": STORAGE_FULL,
    "quotaExceeded": STORAGE_FULL,
    "teamDriveFileLimitExceeded": TOO_MANY_FILES,
    "numChildrenInNonRootLimitExceeded": TOO_MANY_FILES,
    "activeItemCreationLimitExceeded": TOO_MANY_FILES,
    "teamDriveHierarchyTooDeep": TOO_MANY_FILES,
    "dailyLimitExceeded": DAILY_LIMIT,
    "userRateLimitExceeded": TOO_FAST,
    "rateLimitExceeded": TOO_FAST,
    "sharingRateLimitExceeded": TOO_FAST,
    "accessNotConfigured": API_DISABLED,
    "SERVICE_DISABLED": API_DISABLED,
    "insufficientPermissions": SCOPE_TOO_SMALL,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": SCOPE_TOO_SMALL,
}


def classify(answer: Answer) -> Rule:
    """The rule for an answer that is no success."""
    if answer.status == 0:
        return _NO_ANSWER[answer.words[0]]
    if answer.status == 403:
        found = next((_WORDS[word] for word in answer.words if word in _WORDS), NO_PERMISSION)
        if found is STORAGE_FULL and "service account" in answer.message.lower():
            return NO_STORAGE
        return found
    if answer.status >= 500:
        return SERVER_ERROR
    return {401: LOGIN_EXPIRED, 404: NOT_FOUND, 408: SERVER_ERROR, 429: TOO_FAST}.get(
        answer.status, REFUSED
    )


def failure_of(answer: Answer) -> Failure:
    """The failure that an answer ends in."""
    rule = classify(answer)
    word = next(
        (word for word in answer.words if answer.status and re.fullmatch(r"\w{1,60}", word)), ""
    )
    code = f" (HTTP {answer.status}{' ' + word if word else ''})" if answer.status else ""
    return Failure(
        rule.reason, f"{rule.message}{code}: {rule.remedy}", retry_after=answer.retry_after
    )


def failure_by(rule: Rule, retry_after: float | None = None) -> Failure:
    """The failure of a rule that no single answer led to. `retry_after` in seconds."""
    return Failure(rule.reason, rule.sentence, retry_after=retry_after)


def parted(failure: Failure) -> tuple[str, str]:
    """A failure's message without its remedy, and the remedy: that of its rule, or of its reason."""
    for rule in RULES:
        if rule.reason is failure.reason and failure.message.endswith(f": {rule.remedy}"):
            return failure.message.removesuffix(f": {rule.remedy}"), rule.remedy
    return failure.message, explain(failure.reason).remedy


def answer_of(error: Exception) -> Answer | None:
    """What an exception of the client says, None if it is none of those that a request may meet."""
    if isinstance(error, HttpError):
        return _of_http(error)
    if isinstance(error, google.auth.exceptions.RefreshError) and error.retryable:
        return Answer(0, ("cut",))
    return next(
        (Answer(0, (word,)) for kinds, word in _ACCIDENTS if isinstance(error, kinds)), None
    )


def _of_http(error: HttpError) -> Answer:
    seconds = retry_after(error.resp.get("retry-after"), error.resp.get("date"))
    words: list[str] = []
    message = ""
    try:
        problem = json.loads(error.content)["error"]
        message = str(problem.get("message", ""))
        words += [
            str(part["reason"])
            for key in ("errors", "details")
            for part in problem.get(key, ())
            if "reason" in part
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # an answer of a proxy, or a truncated one: the status says enough
    return Answer(int(error.resp.status), tuple(words), message, seconds)
