"""What a failed request to Google Drive means: a table of rules, and the function that picks one.

In comes an exception of the client, out goes a `FailedRequest`: its rule says whether to retry, and
builds the `Failure`. The table is separate because docs/destinations.md is generated from it.

For Drive's reason words, see
https://developers.google.com/workspace/drive/api/guides/handle-errors. A failure's message holds
our own text, the HTTP status and Drive's reason word. It never holds a URL or a body, since those
may carry credentials.
"""

import contextlib
import http.client
import json
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import google.auth.exceptions
import httplib2
from googleapiclient.errors import HttpError

from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason


class UnreadableResponse(Exception):
    """Report a successful answer that is cut short, or that Drive did not send."""


class UploadStalled(Exception):
    """Report that Drive has no more bytes of an upload than before."""


class ChecksumMissing(Exception):
    """Report that Drive has a complete file, but not yet its size and MD5."""


class ForeignSession(Exception):
    """Report an upload session on a host that must not get the access token."""


class ProxyRefused(Exception):
    """Report that a proxy does not connect to Google. `status` is its HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


REQUEST_ERRORS = (
    HttpError,
    OSError,
    http.client.HTTPException,
    httplib2.HttpLib2Error,
    google.auth.exceptions.GoogleAuthError,
    UnreadableResponse,
    UploadStalled,
    ChecksumMissing,
    ForeignSession,
    ProxyRefused,
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
SESSION_CONTROL = Rule(
    "the token endpoint refuses with `invalid_rapt`",
    Reason.DESTINATION_AUTH,
    "the Google Workspace domain ends logins after a time (Google session control)",
    "Use a service account, or let the domain's administrator mark the OAuth client as trusted and "
    "exempt it from reauthentication. Then log in again with `enrollgate drive login`.",
    False,
)
CLOCK_WRONG = Rule(
    "the token endpoint refuses the time of the request (`iat`, `exp`), or 401 from a server whose "
    "`Date` differs from the worker's clock by more than 5 minutes",
    Reason.DESTINATION_AUTH,
    "Google refuses the credentials because the clock of the worker's machine is wrong",
    "Set the machine's clock (NTP: `timedatectl set-ntp true`), then start the run again. The key "
    "or login itself is fine.",
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
    "`activeItemCreationLimitExceeded`",
    Reason.DESTINATION_QUOTA,
    "the shared drive, the folder or the account holds as many items as Drive allows",
    "Remove items and empty the trash, or name another folder in ENROLLGATE_DESTINATION.",
    False,
)
TOO_DEEP = Rule(
    "403 `teamDriveHierarchyTooDeep`, `myDriveHierarchyDepthLimitExceeded`",
    Reason.DESTINATION_QUOTA,
    "the folder lies too deep: Drive allows 100 levels of folders, and a course needs two more",
    "Name a folder nearer to the top in ENROLLGATE_DESTINATION.",
    False,
)
DAILY_LIMIT = Rule(
    "403 `dailyLimitExceeded`",
    Reason.DESTINATION_RATE_LIMITED,
    "the daily limit of the Google Cloud project for Drive is used up",
    "Try again tomorrow, or raise the project's limit of queries per day in the Google Cloud "
    "console.",
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
AUTOMATED_QUERIES = Rule(
    '403 with a page instead of JSON ("your computer or network may be sending automated queries")',
    Reason.DESTINATION_RATE_LIMITED,
    "Google, or a proxy, answers with a page that refuses the worker's network, still after many "
    "retries",
    "Try again later, or lower ENROLLGATE_MAX_CONCURRENT_RUNS. If a proxy stands between the "
    "worker and Google, let it pass www.googleapis.com.",
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
    "403 `insufficientPermissions`, `appNotAuthorizedToFile`, `ACCESS_TOKEN_SCOPE_INSUFFICIENT`",
    Reason.DESTINATION_AUTH,
    "the login does not include access to Google Drive",
    "Log in again with `enrollgate drive login`, or give the workload the scope "
    "https://www.googleapis.com/auth/drive.",
    False,
)
DOMAIN_POLICY = Rule(
    "403 `domainPolicy`",
    Reason.DESTINATION_AUTH,
    "the Google Workspace domain does not let this application use Drive",
    "Ask the domain's administrator to allow the OAuth client or service account for Google Drive.",
    False,
)
NOT_A_MEMBER = Rule(
    "403 `teamDriveMembershipRequired`",
    Reason.DESTINATION_AUTH,
    "the account is not a member of the shared drive; a share of the folder alone is not enough",
    "Add the account to the shared drive as content manager.",
    False,
)
NO_PERMISSION = Rule(
    "403 `insufficientFilePermissions`, or any other 403",
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
    "a truncated or unreadable response; JSON with missing or odd fields; a page, a redirect or "
    "more than 16 MiB instead of JSON",
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
PROXY_REFUSES = Rule(
    "a proxy answers CONNECT with a 4xx status",
    Reason.NETWORK_ERROR,
    "the proxy does not connect to Google Drive",
    "Check the address, user name and password in HTTPS_PROXY, and that the proxy lets the worker "
    "connect to www.googleapis.com and oauth2.googleapis.com. NO_PROXY lists hosts to reach "
    "directly.",
    False,
)
UNTRUSTED = Rule(
    "a TLS certificate that is not trusted",
    Reason.NETWORK_ERROR,
    "the certificate shown for Google Drive is not trusted",
    "If a proxy inspects TLS, name the file of its authority in SSL_CERT_FILE. Else check the "
    "machine's clock.",
    False,
)
SESSION_EXPIRED = Rule(
    "400, 404, 410 or 416 on an upload's session, repeatedly",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive drops upload sessions before the file is complete",
    "Try again later. One attempt starts an upload up to three times.",
    True,
)
FOREIGN_SESSION = Rule(
    "an upload session (`Location`) on another host than Google's or ENROLLGATE_DRIVE_ENDPOINT's",
    Reason.DESTINATION_UNAVAILABLE,
    "the upload session is on a host that is not Google's; no token was sent there",
    "Check ENROLLGATE_DRIVE_ENDPOINT, and which proxy stands between the worker and Google.",
    False,
)
CHECKSUM_LATE = Rule(
    "200, but no `size` or `md5Checksum`, repeatedly",
    Reason.DESTINATION_UNAVAILABLE,
    "Google Drive does not give the checksum of a complete file",
    "Try again later: the file stays at Drive, and the next attempt only verifies it.",
    True,
)
VANISHED = Rule(
    "a file that was delivered, and is missing at the end of the run",
    Reason.DESTINATION_UNAVAILABLE,
    "files that this run delivered are no longer at Google Drive",
    "Nothing: the next attempt delivers them again. Do not remove files while a run is working.",
    False,
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
    SESSION_CONTROL,
    CLOCK_WRONG,
    NO_STORAGE,
    STORAGE_FULL,
    TOO_MANY_FILES,
    TOO_DEEP,
    DAILY_LIMIT,
    RATE_LIMITED,
    AUTOMATED_QUERIES,
    WAIT_TOO_LONG,
    API_DISABLED,
    SCOPE_TOO_SMALL,
    DOMAIN_POLICY,
    NOT_A_MEMBER,
    NO_PERMISSION,
    NOT_FOUND,
    SERVER_ERROR,
    UNREADABLE,
    STALLED,
    CONNECTION_LOST,
    PROXY_REFUSES,
    UNTRUSTED,
    SESSION_EXPIRED,
    FOREIGN_SESSION,
    CHECKSUM_LATE,
    CORRUPT,
    VANISHED,
    REFUSED,
)

# Drive's reason words of an HTTP 403.
RULES_BY_WORD: dict[str, Rule] = {
    "storageQuotaExceeded": STORAGE_FULL,
    "quotaExceeded": STORAGE_FULL,
    "teamDriveFileLimitExceeded": TOO_MANY_FILES,
    "numChildrenInNonRootLimitExceeded": TOO_MANY_FILES,
    "activeItemCreationLimitExceeded": TOO_MANY_FILES,
    "teamDriveHierarchyTooDeep": TOO_DEEP,
    "myDriveHierarchyDepthLimitExceeded": TOO_DEEP,
    "dailyLimitExceeded": DAILY_LIMIT,
    "userRateLimitExceeded": RATE_LIMITED,
    "rateLimitExceeded": RATE_LIMITED,
    "sharingRateLimitExceeded": RATE_LIMITED,
    "accessNotConfigured": API_DISABLED,
    "SERVICE_DISABLED": API_DISABLED,
    "insufficientPermissions": SCOPE_TOO_SMALL,
    "appNotAuthorizedToFile": SCOPE_TOO_SMALL,
    "domainPolicy": DOMAIN_POLICY,
    "teamDriveMembershipRequired": NOT_A_MEMBER,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": SCOPE_TOO_SMALL,
}
_RULES_BY_STATUS = {401: LOGIN_EXPIRED, 404: NOT_FOUND, 408: SERVER_ERROR, 429: RATE_LIMITED}
_CLOCK_TOLERANCE = timedelta(minutes=5)


def classify(error: Exception, now: datetime | None = None) -> FailedRequest:
    """Say what an exception of REQUEST_ERRORS means.

    `now` is the worker's clock, in UTC, to compare with Drive's.
    """
    code = ""
    match error:  # the narrow classes come before the wide ones
        case HttpError():
            return _classify_http(error, now)
        case UploadStalled():
            rule = STALLED
        case ChecksumMissing():
            rule = CHECKSUM_LATE
        case ForeignSession():
            rule = FOREIGN_SESSION
        case ProxyRefused():
            rule = PROXY_REFUSES if error.status < 500 else CONNECTION_LOST
            code = f"the proxy answers HTTP {error.status}"
        case ssl.SSLCertVerificationError():
            rule = UNTRUSTED
        case google.auth.exceptions.TransportError():
            rule = CONNECTION_LOST
        case google.auth.exceptions.GoogleAuthError():
            rule = _classify_token_refusal(error)
        case OSError() | httplib2.ServerNotFoundError():
            rule = CONNECTION_LOST
        case _:
            rule = UNREADABLE
    return FailedRequest(rule, code)


def _classify_token_refusal(error: google.auth.exceptions.GoogleAuthError) -> Rule:
    """Pick the rule by the token endpoint's words, which are only looked at.

    Google says of a wrong clock "Invalid JWT: Token must be a short-lived token (60 minutes) and in
    a reasonable timeframe. Check your iat and exp values [...]".
    """
    if isinstance(error, google.auth.exceptions.RefreshError) and error.retryable:
        return CONNECTION_LOST
    text = str(error).lower()
    if "invalid_rapt" in text:
        return SESSION_CONTROL
    if "reasonable timeframe" in text or re.search(r"\b(iat|exp|nbf)\b", text):
        return CLOCK_WRONG
    return LOGIN_REVOKED


def _classify_http(error: HttpError, now: datetime | None) -> FailedRequest:
    """Pick the rule by the HTTP status and, for 403, by the reason words in the JSON body.

    Drive's sentence is only looked at, never passed on.
    """
    status = int(error.resp.status)
    words: list[str] = []
    sentence = ""
    is_page = bool(error.content)
    try:
        answer = json.loads(error.content)
        is_page = not isinstance(answer, dict)
        problem = answer["error"]
        sentence = str(problem.get("message", ""))
        words += [
            str(part["reason"])
            for key in ("errors", "details")
            for part in problem.get(key, ())
            if "reason" in part
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # a proxy's page or a truncated body: the status alone says enough
    theirs = now
    with contextlib.suppress(ValueError, OverflowError):
        date = parsedate_to_datetime(error.resp.get("date", ""))
        theirs = date.replace(tzinfo=date.tzinfo or UTC)
    if status == 403:
        found = (RULES_BY_WORD[word] for word in words if word in RULES_BY_WORD)
        rule = next(found, AUTOMATED_QUERIES if is_page else NO_PERMISSION)
        if rule is STORAGE_FULL and "service account" in sentence.lower():
            rule = NO_STORAGE
    elif status == 401 and now and theirs and abs(theirs - now) > _CLOCK_TOLERANCE:
        rule = CLOCK_WRONG
    elif status >= 500:
        rule = SERVER_ERROR
    elif 300 <= status < 400 or (b"<html" in error.content[:1000].lower() and status != 429):
        rule = UNREADABLE  # not Drive's words, whatever the status is
    else:
        rule = _RULES_BY_STATUS.get(status, REFUSED)
    word = next((word for word in words if re.fullmatch(r"\w{1,60}", word)), "")
    seconds = retry_after(error.resp.get("retry-after"), error.resp.get("date"))
    return FailedRequest(rule, f"HTTP {status} {word}".rstrip(), seconds)
