"""Each line of the table in docs/destinations.md, wherever it strikes: reason, message and remedy as a user reads them."""

import socket
import threading
from dataclasses import dataclass
from random import Random

import httplib2
import pytest
from googleapiclient.errors import HttpError
from tests.drive_emulator import Fault
from tests.drive_emulator.store import Refused
from tests.faulty_site import FaultySite, Lecture, content
from tests.integration.drive.test_drive import KIB, Bench, bench  # noqa: F401
from tests.orders import order_for

from enrollgate.domain.reasons import Failure, Reason, exit_code
from enrollgate.worker import work
from enrollgate.worker.destinations.drive import errors
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.errors import Rule
from enrollgate.worker.destinations.drive.retry import LONGEST_PAUSE, TRIES, RetryPolicy
from enrollgate.worker.destinations.drive.uploads import ATTEMPTS
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW

ANY = ("generateIds", "session", "chunk")
"""A plain request, the opening of an upload, its bytes."""


@dataclass(frozen=True)
class Case:
    """What happens again and again, and what it is called."""

    rule: Rule
    fault: Fault
    code: str = ""
    """What stands between message and remedy."""
    requests: int = 1
    """How often the same is asked, at most."""
    places: tuple[str, ...] = ANY
    also: str | None = None
    """An operation that meets it, too."""

    @property
    def sentence(self) -> str:
        return f"{self.rule.message}{self.code}: {self.rule.remedy}"


def forbidden(
    rule: Rule, reason: str, *, message: str = "", detail: str = "", requests: int = 1
) -> Case:
    fault = Fault(status=403, reason=reason, message=message, detail=detail)
    return Case(rule, fault, f" (HTTP 403 {reason})", requests)


def status(
    rule: Rule, number: int, reason: str, requests: int, places: tuple[str, ...] = ANY
) -> Case:
    return Case(
        rule, Fault(status=number, reason=reason), f" (HTTP {number} {reason})", requests, places
    )


NO_QUOTA = "Service Accounts do not have storage quota. Leverage shared drives, or use OAuth delegation instead."
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
            "teamDriveHierarchyTooDeep",
        )
    ),
    forbidden(errors.DAILY_LIMIT, "dailyLimitExceeded"),
    *(
        forbidden(errors.TOO_FAST, word, requests=TRIES)
        for word in ("userRateLimitExceeded", "rateLimitExceeded", "sharingRateLimitExceeded")
    ),
    status(errors.TOO_FAST, 429, "rateLimitExceeded", TRIES),
    Case(
        errors.ASKED_TO_WAIT,
        Fault(status=429, reason="rateLimitExceeded", headers={"Retry-After": "301"}),
    ),
    Case(errors.ASKED_TO_WAIT, Fault(status=503, headers={"Retry-After": "3600"})),
    forbidden(errors.API_DISABLED, "accessNotConfigured", detail="SERVICE_DISABLED"),
    forbidden(errors.API_DISABLED, "forbidden", detail="SERVICE_DISABLED"),
    forbidden(errors.SCOPE_TOO_SMALL, "insufficientPermissions"),
    forbidden(errors.SCOPE_TOO_SMALL, "forbidden", detail="ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
    forbidden(errors.NO_PERMISSION, "insufficientFilePermissions"),
    forbidden(errors.NO_PERMISSION, "domainPolicy"),
    forbidden(errors.NO_PERMISSION, "somethingNew"),
    status(errors.NOT_FOUND, 404, "notFound", 1, ("generateIds", "session")),
    *(
        status(errors.SERVER_ERROR, number, "backendError", TRIES)
        for number in (408, 500, 502, 503, 504, 599)
    ),
    Case(errors.UNREADABLE, Fault("truncated"), requests=TRIES, places=("generateIds",)),
    Case(errors.UNREADABLE, Fault("page"), requests=TRIES, also="probe"),
    Case(errors.STUCK, Fault("nothing_kept"), requests=TRIES, places=("chunk",)),
    Case(
        errors.CUT, Fault("cut"), requests=2 * TRIES, also="probe"
    ),  # the transport itself asks a second time
    status(errors.REFUSED, 400, "invalid", 1),
    status(errors.REFUSED, 418, "teapot", 1),
    Case(errors.SESSION_GONE, Fault(status=404, reason="notFound"), requests=3, places=("chunk",)),
    Case(errors.SESSION_GONE, Fault(status=410, reason="gone"), requests=3, places=("chunk",)),
    Case(errors.CORRUPT, Fault("corrupt"), requests=3, places=("chunk",)),
]
STRUCK = [(case, place) for case in CASES for place in case.places]
NAMES = [f"{place}: {case.fault.kind} {case.sentence[:60]}" for case, place in STRUCK]


def strike(bench: Bench, case: Case, place: str) -> None:
    bench.emulator.faults.always(place, case.fault)
    if case.also and place == "chunk":
        bench.emulator.faults.always(case.also, case.fault)


def test_each_rule_has_its_case() -> None:
    elsewhere = {errors.LOGIN_REVOKED}
    assert {case.rule for case in CASES} | elsewhere == set(errors.RULES)
    assert set(errors._WORDS) <= {case.fault.reason for case in CASES} | {
        case.fault.detail for case in CASES
    }


@pytest.mark.parametrize(("case", "place"), STRUCK, ids=NAMES)
def test_each_refusal_is_told_by_reason_message_and_remedy(
    bench: Bench, case: Case, place: str
) -> None:
    drive = bench.opened()
    drive._uploads.ids._ids.clear()
    strike(bench, case, place)
    with pytest.raises(Failure) as caught:
        bench.send(drive)
    assert (caught.value.reason, caught.value.message) == (case.rule.reason, case.sentence)
    chunks = 3 if place == "chunk" else 1
    assert len(bench.emulator.faults.happened) <= case.requests * chunks, (
        bench.emulator.faults.happened
    )
    assert bench.emulator.store.media() == []


@pytest.mark.parametrize(("case", "place"), STRUCK, ids=NAMES)
def test_a_whole_run_ends_in_the_same_words_and_soon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, case: Case, place: str
) -> None:
    without_pauses(monkeypatch, bench)
    strike(bench, case, place)
    with FaultySite([Lecture(f"L{n}", content(600 * KIB, n)) for n in range(12)]) as site:
        report = work(order_of(bench, site), stop=threading.Event())
        left_the_site = site.media_bytes / site.size
    assert (report.reason, report.message) == (case.rule.reason, case.sentence)
    assert report.items_delivered == 0
    lanes = 2
    at_most = 1 if place == "generateIds" else DELIVERIES_IN_A_ROW + lanes - 1
    assert len(bench.emulator.faults.happened) <= case.requests * at_most
    assert left_the_site < 0.8, "the rest is not downloaded in vain"
    if case.rule is errors.ASKED_TO_WAIT:
        assert report.retry_after == float(case.fault.headers["Retry-After"])
        assert exit_code(report.reason) == 75, "the next try waits, and is made"


def without_pauses(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(
        "enrollgate.worker.destinations.drive.destination.RetryPolicy",
        lambda _random: RetryPolicy(Random(1), bench.pauses),
    )


def order_of(bench: Bench, site: FaultySite) -> object:
    return order_for(
        site,
        bench.folder,
        destination=f"drive:{bench.emulator.store.root}",
        drive_endpoint=bench.emulator.url,
        drive_credentials=bench.key_file,
        scratch_limit=2_000_000,
    )


def test_a_login_that_google_gives_no_token_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("invalid_grant", "unauthorized_client"):
        bench.emulator.token_refusal = word
        with FaultySite([Lecture("L", b"x")]) as site:
            report = work(order_of(bench, site), stop=threading.Event())
        assert (report.reason, report.message) == (
            Reason.DESTINATION_AUTH,
            errors.LOGIN_REVOKED.sentence,
        )


def test_a_place_where_nobody_listens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch, bench)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with FaultySite([Lecture("L", b"x")]) as site:
            order = order_for(
                site,
                bench.folder,
                destination="drive:rootfolder0001",
                drive_endpoint=url,
                drive_credentials=bench.key_file,
            )
            report = work(order, stop=threading.Event())
    assert (report.reason, report.message) == (Reason.NETWORK_ERROR, errors.CUT.sentence)
    assert len(bench.pauses.seconds) == TRIES - 1


def test_a_folder_that_goes_while_a_course_is_delivered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pauses(monkeypatch, bench)
    store = bench.emulator.store

    def gone() -> None:
        for file in store.files.values():
            file["trashed"] = True

    bench.emulator.after_the_last_answer = gone
    with FaultySite([Lecture(f"L{n}", content(600 * KIB, n)) for n in range(12)]) as site:
        report = work(order_of(bench, site), stop=threading.Event())
        assert site.media_bytes < 0.8 * site.size
    assert report.reason is Reason.DESTINATION_NOT_FOUND
    assert (
        report.message
        == f"{errors.NOT_FOUND.message} (HTTP 404 notFound): {errors.NOT_FOUND.remedy}"
    )


def test_a_service_account_without_storage_is_told_what_to_do(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.store.refuse = Refused(403, "storageQuotaExceeded", NO_QUOTA)
    with pytest.raises(Failure) as caught:
        bench.send(drive)
    assert caught.value.reason is Reason.DESTINATION_QUOTA
    assert (
        "use a folder on a shared drive (account as content manager), or ENROLLGATE_DRIVE_SUBJECT"
        in str(caught.value)
    )


@pytest.mark.parametrize("root", ["nosuchfolder00", None])
def test_a_folder_that_is_not_there_or_is_in_the_bin_is_named_so(
    bench: Bench, root: str | None
) -> None:
    bench.emulator.store.files[bench.emulator.store.root]["trashed"] = True
    with pytest.raises(Failure) as caught:
        bench.drive(root).open("A course")
    assert caught.value.reason is Reason.DESTINATION_NOT_FOUND and caught.value.message.endswith(
        errors.NOT_FOUND.remedy
    )


def test_a_moment_in_retry_after_is_reckoned_by_drive_s_clock() -> None:
    headers = {
        "status": "429",
        "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT",
        "date": "Wed, 21 Oct 2026 07:26:00 GMT",
    }
    answer = errors.answer_of(HttpError(httplib2.Response(headers), b""))
    assert answer is not None and answer.retry_after == 120


def test_the_numbers_in_the_table_of_refusals_are_those_of_the_code() -> None:
    assert f"above {LONGEST_PAUSE:.0f} s" in errors.ASKED_TO_WAIT.says
    assert f"{SOCKET_TIMEOUT:.0f} s of socket_timeout" in errors.CUT.says
    assert ATTEMPTS == 3 and "begun anew three times" in errors.SESSION_GONE.remedy
