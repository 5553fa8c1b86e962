"""Each rule of the table in docs/destinations.md, on each operation: reason, message and remedy."""

import socket
import threading
from dataclasses import dataclass
from typing import Any

import httplib2
import pytest
from googleapiclient.errors import HttpError
from tests.drive_emulator import Fault
from tests.drive_emulator.store import Refused
from tests.faulty_site import FaultySite, Lecture
from tests.integration.drive.bench import KIB, Bench
from tests.media import lecture

from enrollgate.domain.reasons import Failure, Reason, exit_code
from enrollgate.domain.report import Report
from enrollgate.worker.destinations.drive import errors
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.errors import Rule
from enrollgate.worker.destinations.drive.retry import LONGEST_PAUSE, MAX_ATTEMPTS
from enrollgate.worker.destinations.drive.uploads import MAX_STARTS
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW
from enrollgate.worker.work import work

# A plain request, the start of an upload, and its bytes.
ANY = ("generateIds", "session", "chunk")


@dataclass(frozen=True)
class Case:
    """A fault that happens on every request, and the rule that it meets.

    `code` ends the message. `requests` is how often the same request is sent, at most. `also` is
    another operation that has the fault.
    """

    rule: Rule
    fault: Fault
    code: str = ""
    requests: int = 1
    operations: tuple[str, ...] = ANY
    also: str | None = None

    @property
    def expected(self) -> tuple[Reason, str, str]:
        """Reason, message and remedy."""
        return self.rule.reason, self.rule.message + self.code, self.rule.remedy

    def apply(self, bench: Bench, operation: str) -> None:
        """Let the fault happen from now on."""
        bench.emulator.faults.always(operation, self.fault)
        if self.also and operation == "chunk":
            bench.emulator.faults.always(self.also, self.fault)


def forbidden(
    rule: Rule, reason: str, *, message: str = "", detail: str = "", requests: int = 1
) -> Case:
    fault = Fault(status=403, reason=reason, message=message, detail=detail)
    return Case(rule, fault, f" (HTTP 403 {reason})", requests)


def status(
    rule: Rule, number: int, reason: str, requests: int, operations: tuple[str, ...] = ANY
) -> Case:
    return Case(
        rule,
        Fault(status=number, reason=reason),
        f" (HTTP {number} {reason})",
        requests,
        operations,
    )


NO_QUOTA = (
    "Service Accounts do not have storage quota. "
    "Leverage shared drives, or use OAuth delegation instead."
)
# Google's page of https://github.com/prasmussen/gdrive/issues/667.
SORRY = (
    '<html><head><meta http-equiv="content-type" content="text/html; charset=utf-8"/><title>'
    "Sorry...</title></head><body><h1>We're sorry...</h1><p>... but your computer or network may "
    "be sending automated queries. To protect our users, we can't process your request right now."
    "</p></body></html>"
)
HTML = {"Content-Type": "text/html; charset=utf-8"}


def without(answer: Any, name: str) -> Any:
    """Return an answer without one of its fields."""
    if not isinstance(answer, dict):
        return answer
    return {key: value for key, value in answer.items() if key != name}


CASES = [
    status(errors.LOGIN_EXPIRED, 401, "authError", 3),
    forbidden(errors.NO_STORAGE, "storageQuotaExceeded", message=NO_QUOTA),
    forbidden(errors.STORAGE_FULL, "storageQuotaExceeded"),
    forbidden(errors.STORAGE_FULL, "quotaExceeded"),
    *(
        forbidden(errors.TOO_MANY_FILES, word)
        for word in (
            "teamDriveFileLimitExceeded",
            "numChildrenInNonRootLimitExceeded",
            "activeItemCreationLimitExceeded",
        )
    ),
    forbidden(errors.TOO_DEEP, "teamDriveHierarchyTooDeep"),
    forbidden(errors.TOO_DEEP, "myDriveHierarchyDepthLimitExceeded"),
    forbidden(errors.DAILY_LIMIT, "dailyLimitExceeded"),
    *(
        forbidden(errors.RATE_LIMITED, word, requests=MAX_ATTEMPTS)
        for word in ("userRateLimitExceeded", "rateLimitExceeded", "sharingRateLimitExceeded")
    ),
    status(errors.RATE_LIMITED, 429, "rateLimitExceeded", MAX_ATTEMPTS),
    Case(
        errors.AUTOMATED_QUERIES,
        Fault("raw", status=403, body=SORRY, headers=HTML),
        " (HTTP 403)",
        MAX_ATTEMPTS,
    ),
    Case(
        errors.RATE_LIMITED,
        Fault("raw", status=429, body=SORRY, headers=HTML),
        " (HTTP 429)",
        MAX_ATTEMPTS,
    ),
    Case(
        errors.WAIT_TOO_LONG,
        Fault(status=429, reason="rateLimitExceeded", headers={"Retry-After": "301"}),
    ),
    Case(errors.WAIT_TOO_LONG, Fault(status=503, headers={"Retry-After": "3600"})),
    forbidden(errors.API_DISABLED, "accessNotConfigured", detail="SERVICE_DISABLED"),
    forbidden(errors.API_DISABLED, "forbidden", detail="SERVICE_DISABLED"),
    forbidden(errors.SCOPE_TOO_SMALL, "insufficientPermissions"),
    forbidden(errors.SCOPE_TOO_SMALL, "forbidden", detail="ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
    forbidden(errors.SCOPE_TOO_SMALL, "appNotAuthorizedToFile"),
    forbidden(errors.DOMAIN_POLICY, "domainPolicy"),
    forbidden(errors.NOT_A_MEMBER, "teamDriveMembershipRequired"),
    forbidden(errors.NO_PERMISSION, "insufficientFilePermissions"),
    forbidden(errors.NO_PERMISSION, "somethingNew"),
    status(errors.NOT_FOUND, 404, "notFound", 1, ("generateIds", "session")),
    *(
        status(errors.SERVER_ERROR, number, "backendError", MAX_ATTEMPTS)
        for number in (408, 500, 502, 503, 504, 599)
    ),
    Case(errors.UNREADABLE, Fault("truncated"), requests=MAX_ATTEMPTS, operations=("generateIds",)),
    Case(errors.UNREADABLE, Fault("page"), requests=MAX_ATTEMPTS, also="probe"),
    Case(errors.STALLED, Fault("nothing_kept"), requests=MAX_ATTEMPTS, operations=("chunk",)),
    Case(
        errors.CONNECTION_LOST, Fault("cut"), requests=2 * MAX_ATTEMPTS, also="probe"
    ),  # the transport itself sends a second time
    Case(
        errors.CLOCK_WRONG,
        Fault(status=401, reason="authError", headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}),
        " (HTTP 401 authError)",
        3,
    ),
    Case(
        errors.SERVER_ERROR,
        Fault("raw", status=502, body="<html><h1>502. That's an error.</h1></html>", headers=HTML),
        " (HTTP 502)",
        MAX_ATTEMPTS,
    ),
    *(
        Case(
            errors.UNREADABLE,
            Fault("raw", status=number, body="<HTML>blocked by the firewall", headers=HTML),
            f" (HTTP {number})",
            MAX_ATTEMPTS,
            ("generateIds", "session"),
        )
        for number in (404, 407)
    ),
    Case(
        errors.UNREADABLE,
        Fault("raw", status=302, headers={"Location": "http://login.example/"}),
        " (HTTP 302)",
        MAX_ATTEMPTS,
    ),
    Case(
        errors.FOREIGN_SESSION,
        Fault("headers", headers={"Location": "https://www.googleapis.com.evil.example/upload"}),
        operations=("session",),
    ),
    Case(
        errors.CHECKSUM_LATE,
        Fault("edit", edit=lambda answer: without(answer, "md5Checksum")),
        requests=MAX_ATTEMPTS + 2,  # the answer itself, and the one on opening
        operations=("chunk",),
        also="get",
    ),
    status(errors.REFUSED, 400, "invalid", 1, ("generateIds", "session")),
    status(errors.REFUSED, 418, "teapot", 1),
    Case(
        errors.SESSION_EXPIRED,
        Fault(status=404, reason="notFound"),
        requests=3,
        operations=("chunk",),
    ),
    *(
        Case(
            errors.SESSION_EXPIRED,
            Fault(status=number, reason=reason),
            requests=3,
            operations=("chunk",),
        )
        for number, reason in ((400, "badRequest"), (410, "gone"), (416, "requestedRangeInvalid"))
    ),
    Case(errors.CORRUPT, Fault("corrupt"), requests=3, operations=("chunk",)),
]
PAIRS = [(case, operation) for case in CASES for operation in case.operations]
NAMES = [f"{operation}: {case.fault.kind} {case.expected[1][:60]}" for case, operation in PAIRS]


def shown(outcome: Failure | Report) -> tuple[Reason | None, str, str]:
    """Return what a user reads: reason, message and remedy."""
    return outcome.reason, outcome.message, outcome.remedy


def test_each_rule_has_its_case() -> None:
    elsewhere = {
        errors.LOGIN_REVOKED,
        errors.SESSION_CONTROL,
        errors.PROXY_REFUSES,
        errors.UNTRUSTED,
        errors.VANISHED,
    }
    assert {case.rule for case in CASES} | elsewhere == set(errors.RULES)
    assert set(errors.RULES_BY_WORD) <= {case.fault.reason for case in CASES} | {
        case.fault.detail for case in CASES
    }


@pytest.mark.parametrize(("case", "operation"), PAIRS, ids=NAMES)
def test_each_refusal_has_its_reason_message_and_remedy(
    bench: Bench, case: Case, operation: str
) -> None:
    drive = bench.open_drive()
    drive._uploads.ids._ids.clear()  # so that the next upload asks for ids
    case.apply(bench, operation)
    with pytest.raises(Failure) as caught:
        bench.send(drive)
    assert shown(caught.value) == case.expected
    chunks = 3 if operation == "chunk" else 1
    assert len(bench.emulator.faults.happened) <= case.requests * chunks, (
        bench.emulator.faults.happened
    )
    if case.rule is not errors.CHECKSUM_LATE:  # that file stays, for the next attempt
        assert bench.emulator.store.media() == []


@pytest.mark.parametrize(("case", "operation"), PAIRS, ids=NAMES)
def test_run_ends_soon_with_the_same_reason_message_and_remedy(
    bench: Bench, without_pauses: None, case: Case, operation: str
) -> None:
    case.apply(bench, operation)
    with FaultySite([Lecture(f"L{n}", lecture(600 * KIB, n)) for n in range(12)]) as site:
        report = work(bench.order(site, scratch_limit=2_000_000), stop=threading.Event())
        left_the_site = site.media_bytes / site.size
    assert shown(report) == case.expected
    assert report.items_delivered == 0
    uploads = 2
    at_most = 1 if operation == "generateIds" else DELIVERIES_IN_A_ROW + uploads - 1
    assert len(bench.emulator.faults.happened) <= case.requests * at_most
    assert left_the_site < 0.8, "the other lectures are not downloaded"
    if case.rule is errors.WAIT_TOO_LONG:
        assert report.retry_after == float(case.fault.headers["Retry-After"])
        assert exit_code(report.reason) == 75, "the next attempt waits, and happens"


@pytest.mark.parametrize(
    ("refusal", "rule"),
    [
        ("invalid_grant", errors.LOGIN_REVOKED),
        ("unauthorized_client", errors.LOGIN_REVOKED),
        ("invalid_grant: Token has been expired or revoked.", errors.LOGIN_REVOKED),
        ("invalid_grant: reauth related error (invalid_rapt)", errors.SESSION_CONTROL),
        (
            # https://github.com/googleapis/google-api-php-client/issues/1501
            "invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a "
            "reasonable timeframe. Check your iat and exp values and use a clock with skew to "
            "account for clock differences between systems.",
            errors.CLOCK_WRONG,
        ),
        ("invalid_grant: Invalid JWT: iat is in the future", errors.CLOCK_WRONG),
    ],
)
def test_login_without_token_is_reported(bench: Bench, refusal: str, rule: Rule) -> None:
    bench.emulator.token_refusal = refusal
    with FaultySite([Lecture("L", b"x")]) as site:
        report = work(bench.order(site, scratch_limit=2_000_000), stop=threading.Event())
    assert shown(report) == shown(rule.failure())
    assert report.reason is Reason.DESTINATION_AUTH


def test_unreachable_endpoint_is_a_network_error(bench: Bench, without_pauses: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with FaultySite([Lecture("L", b"x")]) as site:
            report = work(bench.order(site, drive_endpoint=url), stop=threading.Event())
    assert shown(report) == shown(errors.CONNECTION_LOST.failure())
    assert report.reason is Reason.NETWORK_ERROR
    assert len(bench.pauses.seconds) == MAX_ATTEMPTS - 1


def test_folder_trashed_during_delivery_ends_the_run(bench: Bench, without_pauses: None) -> None:
    store = bench.emulator.store

    def trash_everything() -> None:
        for file in store.files.values():
            file["trashed"] = True

    bench.emulator.after_final_response = trash_everything
    with FaultySite([Lecture(f"L{n}", lecture(600 * KIB, n)) for n in range(12)]) as site:
        report = work(bench.order(site, scratch_limit=2_000_000), stop=threading.Event())
        assert site.media_bytes < 0.8 * site.size
    assert report.reason is Reason.DESTINATION_NOT_FOUND
    assert shown(report) == shown(errors.NOT_FOUND.failure("HTTP 404 notFound"))


def test_service_account_without_storage_gets_a_remedy(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.store.refuse = Refused(403, "storageQuotaExceeded", NO_QUOTA)
    with pytest.raises(Failure) as caught:
        bench.send(drive)
    assert caught.value.reason is Reason.DESTINATION_QUOTA
    assert caught.value.remedy.startswith(
        "Use a folder on a shared drive (account as content manager), or ENROLLGATE_DRIVE_SUBJECT"
    )


@pytest.mark.parametrize("root", ["nosuchfolder00", None])
def test_missing_or_trashed_folder_is_reported(bench: Bench, root: str | None) -> None:
    bench.emulator.store.files[bench.emulator.store.root]["trashed"] = True
    with pytest.raises(Failure) as caught:
        bench.drive(root).open("A course")
    assert caught.value.reason is Reason.DESTINATION_NOT_FOUND
    assert caught.value.remedy == errors.NOT_FOUND.remedy


def test_date_in_retry_after_is_relative_to_drives_clock() -> None:
    headers = {
        "status": "429",
        "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT",
        "date": "Wed, 21 Oct 2026 07:26:00 GMT",
    }
    assert errors.classify(HttpError(httplib2.Response(headers), b"")).retry_after == 120


def test_numbers_in_the_documented_rules_match_the_code() -> None:
    assert f"above {LONGEST_PAUSE:.0f} s" in errors.WAIT_TOO_LONG.condition
    assert f"{SOCKET_TIMEOUT:.0f} s without progress" in errors.CONNECTION_LOST.condition
    assert MAX_STARTS == 3 and "up to three times" in errors.SESSION_EXPIRED.remedy
