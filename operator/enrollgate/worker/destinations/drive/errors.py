"""What a failed request to Google Drive means: a table of rules, and the function that picks one.

In comes an exception of the client, out goes a `FailedRequest`: its rule says whether to retry, and
builds the `Failure`. The table is separate because docs/destinations.md is generated from it.

For Drive's reason words, see
https://developers.google.com/workspace/drive/api/guides/handle-errors. A failure's message holds
our own text, the HTTP status and Drive's reason word. It never holds a URL or a body, since those
may carry credentials.
"""

import http.client
import json
import re
from dataclasses import dataclass

import google.auth.exceptions
import httplib2
from googleapiclient.errors import HttpError

from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason


class UnreadableResponse(Exception):
    """Report a successful answer that is cut short, or that Drive did not send."""


class UploadStalled(Exception):
    """Report that Drive has no more bytes of an upload than before."""


REQUEST_ERRORS = (
    HttpError,
    OSError,
    http.client.HTTPException,
    httplib2.HttpLib2Error,
    google.auth.exceptions.GoogleAuthError,
    UnreadableResponse,
    UploadStalled,
)
# What a request to Drive may raise. Everything else is a bug and passes through.


@dataclass(frozen=True, slots=True)
class Rule:
    """Describe one kind of failed request.

    `condition` is the text of the documentation's table. `retried` says whether the same request
    is sent again, after growing pauses, before it becomes a failure.
    """

    condition: str
    reason: Reason
    message: str
    remedy: str
    retried: bool

    def failure(self, code: str = "", retry_after: float | None = None) -> Failure:
        """Build the failure of this rule.

        `code` is what Drive answered, for instance `HTTP 403 rateLimitExceeded`. `retry_after` is
        how many seconds Drive asks to wait.
        """
        message = f"{self.message} ({code})" if code else self.message
        return Failure(self.reason, message, remedy=self.remedy, retry_after=retry_after)


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """Hold what is known about one failed request: its rule, Drive's code, the seconds to wait."""

    rule: Rule
    code: str = ""
    retry_after: float | None = None

    def failure(self) -> Failure:
        """Build the failure that this request ends in."""
        return self.rule.failure(self.code, self.retry_after)


LOGIN_EXPIRED = Rule(
    "401 `authError`, after the token was renewed",
    Reason.DESTINATION_AUTH,
    "Google Drive does not accept the credentials",
    "Check that the key or the login is not revoked. For a user's login, log in again with "
    "`enrollgate drive login`.",
    False,
)
LOGIN_REVOKED = Rule(
    "the token endpoint refuses (`invalid_grant`, `unauthorized_client`, unknown key)",
    Reason.DESTINATION_AUTH,
    "Google issues no token for these credentials (expired, revoked, or delegation not granted)",
    "Create a new key, log in again with `enrollgate drive login`, or grant the account "
    "domain-wide delegation of the scope.",
    False,
)
NO_STORAGE = Rule(
    "403 `storageQuotaExceeded` for a service account",
    Reason.DESTINATION_QUOTA,
    "a service account has no storage of its own, so it cannot own files in a folder of My Drive",
    "Use a folder on a shared drive (account as content manager), or ENROLLGATE_DRIVE_SUBJECT with "
    "domain-wide delegation, or a user's login (`enrollgate drive login`).",
    False,
)
STORAGE_FULL = Rule(
    "403 `storageQuotaExceeded`, `quotaExceeded`",
    Reason.DESTINATION_QUOTA,
    "the Google account's storage is full",
    "Free some space or raise the storage quota.",
    False,
)
TOO_MANY_FILES = Rule(
    "403 `teamDriveFileLimitExceeded`, `numChildrenInNonRootLimitExceeded`, "
    "`activeItemCreationLimitExceeded`, `teamDriveHierarchyTooDeep`",
    Reason.DESTINATION_QUOTA,
    "the shared drive, the folder or the account holds as many items as Drive allows",
    "Remove items, or name another folder in ENROLLGATE_DESTINATION.",
    False,
)
DAILY_LIMIT = Rule(
    "403 `dailyLimitExceeded`",
    Reason.DESTINATION_RATE_LIMITED,
    "the daily limit of Google Drive is used up",
    "Try again tomorrow.",
    False,
)
RATE_LIMITED = Rule(
    "403 `userRateLimitExceeded`, `rateLimitExceeded`, `sharingRateLimitExceeded`; 429",
    Reason.DESTINATION_RATE_LIMITED,
    "Google Drive still limits the rate after many retries; it also answers so once a user has "
    "uploaded 750 GB in a day",
    "Try again tomorrow, or lower ENROLLGATE_MAX_CONCURRENT_RUNS.",
    True,
)
WAIT_TOO_LONG = Rule(
    "403, 429 or 5xx of the retried kinds, with a `Retry-After` above 300 s",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive asks for a longer wait than one attempt may take",
    "Nothing: the run's next attempt starts later. If it happens often, lower "
    "ENROLLGATE_MAX_CONCURRENT_RUNS.",
    False,
)
API_DISABLED = Rule(
    "403 `accessNotConfigured`, `SERVICE_DISABLED`",
    Reason.DESTINATION_AUTH,
    "the Google Drive API is not enabled in the credentials' Google Cloud project",
    "Enable the Google Drive API in that project.",
    False,
)
SCOPE_TOO_SMALL = Rule(
    "403 `insufficientPermissions`, `ACCESS_TOKEN_SCOPE_INSUFFICIENT`",
    Reason.DESTINATION_AUTH,
    "the login does not include access to Google Drive",
    "Log in again with `enrollgate drive login`, or give the workload the scope "
    "https://www.googleapis.com/auth/drive.",
    False,
)
NO_PERMISSION = Rule(
    "403 `insufficientFilePermissions`, `domainPolicy`, or any other 403",
    Reason.DESTINATION_AUTH,
    "the account may not write to the folder",
    "Share the folder with the account as editor (on a shared drive: as content manager).",
    False,
)
NOT_FOUND = Rule(
    "404 `notFound`",
    Reason.DESTINATION_NOT_FOUND,
    "the folder does not exist, or is not shared with the account",
    "Check the folder's id in ENROLLGATE_DESTINATION and share the folder with the account.",
    False,
)
SERVER_ERROR = Rule(
    "408, 500, 502, 503, 504, any 5xx",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive reports an internal error",
    "Try again later.",
    True,
)
UNREADABLE = Rule(
    "a truncated or unreadable response, or 200 with something else than JSON",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive's answers end early or cannot be read",
    "Check which proxy stands between the worker and Google, then try again later.",
    True,
)
STALLED = Rule(
    "308 without progress, with or without `Range`, or repeatedly with less than before",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive takes no more bytes of the upload",
    "Try again later: the upload continues where it stopped.",
    True,
)
CONNECTION_LOST = Rule(
    "no connection, a connection cut in the middle of a chunk, or 60 s without progress",
    Reason.NETWORK_ERROR,
    "Google Drive cannot be reached, or the connection breaks",
    "Check that the worker's network reaches Google Drive.",
    True,
)
REFUSED = Rule(
    "any other answer",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive refuses the request",
    "Run `enrollgate doctor`. If it finds nothing, report this.",
    False,
)
SESSION_EXPIRED = Rule(
    "404 or 410 on an upload's session, repeatedly",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive drops upload sessions before the file is complete",
    "Try again later. One attempt starts an upload up to three times.",
    True,
)
CORRUPT = Rule(
    "200, but another size or `md5Checksum` than the file's",
    Reason.CORRUPT_UPLOAD,
    "the file at Google Drive differs from the one that was sent; it was moved to the trash",
    "Try again. If it happens again, check what stands between the worker and Google.",
    True,
)

# In the order of the documentation's table.
RULES = (
    LOGIN_EXPIRED,
    LOGIN_REVOKED,
    NO_STORAGE,
    STORAGE_FULL,
    TOO_MANY_FILES,
    DAILY_LIMIT,
    RATE_LIMITED,
    WAIT_TOO_LONG,
    API_DISABLED,
    SCOPE_TOO_SMALL,
    NO_PERMISSION,
    NOT_FOUND,
    SERVER_ERROR,
    UNREADABLE,
    STALLED,
    CONNECTION_LOST,
    SESSION_EXPIRED,
    CORRUPT,
    REFUSED,
)

# Drive's reason words of an HTTP 403.
RULES_BY_WORD: dict[str, Rule] = {
    "storageQuotaExceeded": STORAGE_FULL,
    "quotaExceeded": STORAGE_FULL,
    "teamDriveFileLimitExceeded": TOO_MANY_FILES,
    "numChildrenInNonRootLimitExceeded": TOO_MANY_FILES,
    "activeItemCreationLimitExceeded": TOO_MANY_FILES,
    "teamDriveHierarchyTooDeep": TOO_MANY_FILES,
    "dailyLimitExceeded": DAILY_LIMIT,
    "userRateLimitExceeded": RATE_LIMITED,
    "rateLimitExceeded": RATE_LIMITED,
    "sharingRateLimitExceeded": RATE_LIMITED,
    "accessNotConfigured": API_DISABLED,
    "SERVICE_DISABLED": API_DISABLED,
    "insufficientPermissions": SCOPE_TOO_SMALL,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": SCOPE_TOO_SMALL,
}
_RULES_BY_STATUS = {401: LOGIN_EXPIRED, 404: NOT_FOUND, 408: SERVER_ERROR, 429: RATE_LIMITED}


def classify(error: Exception) -> FailedRequest:
    """Say what an exception of REQUEST_ERRORS means."""
    match error:  # the narrow classes come before the wide ones
        case HttpError():
            return _classify_http(error)
        case UploadStalled():
            rule = STALLED
        case google.auth.exceptions.TransportError():
            rule = CONNECTION_LOST
        case google.auth.exceptions.GoogleAuthError():
            retryable = isinstance(error, google.auth.exceptions.RefreshError) and error.retryable
            rule = CONNECTION_LOST if retryable else LOGIN_REVOKED
        case OSError() | httplib2.ServerNotFoundError():
            rule = CONNECTION_LOST
        case _:
            rule = UNREADABLE
    return FailedRequest(rule)


def _classify_http(error: HttpError) -> FailedRequest:
    """Pick the rule by the HTTP status and, for 403, by the reason words in the JSON body.

    Drive's sentence is only looked at, never passed on.
    """
    status = int(error.resp.status)
    words: list[str] = []
    sentence = ""
    try:
        problem = json.loads(error.content)["error"]
        sentence = str(problem.get("message", ""))
        words += [
            str(part["reason"])
            for key in ("errors", "details")
            for part in problem.get(key, ())
            if "reason" in part
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # a proxy's page or a truncated body: the status alone says enough
    if status == 403:
        rule = next((RULES_BY_WORD[word] for word in words if word in RULES_BY_WORD), NO_PERMISSION)
        if rule is STORAGE_FULL and "service account" in sentence.lower():
            rule = NO_STORAGE
    elif status >= 500:
        rule = SERVER_ERROR
    else:
        rule = _RULES_BY_STATUS.get(status, REFUSED)
    word = next((word for word in words if re.fullmatch(r"\w{1,60}", word)), "")
    seconds = retry_after(error.resp.get("retry-after"), error.resp.get("date"))
    return FailedRequest(rule, f"HTTP {status} {word}".rstrip(), seconds)
