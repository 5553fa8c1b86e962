"""ENROLLGATE_INCOMPLETE: a course is complete but for items that are accepted as left out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.settings.worker import WorkerSettings

ACCEPTED = {"incomplete": "accept", "incomplete_reasons": "CourseNotFound,SiteError"}


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture(f"L{n}", lecture(3000, n)) for n in range(1, 5)]) as running:
        yield running


def test_accepted_items_are_left_out_and_named_everywhere(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/2.mp4"] = Fault(status=404)
    report = run(order_for(site, tmp_path, **ACCEPTED))
    assert report.reason is None and report.items_failed == 0, report
    assert "1 items left out" in report.message
    assert [each.item for each in report.left_out_items] == ["L2"]
    assert report.left_out_items[0].why.startswith("CourseNotFound: ")
    assert Report.decode(report.encode()).left_out_items == report.left_out_items
    (path,) = (tmp_path / "out").rglob("manifest.json")
    assert json.loads(path.read_text())["left_out"][0]["title"] == "L2"
    site.faults.clear()
    again = run(order_for(site, tmp_path, run_number=2, **ACCEPTED))
    assert (again.reason, again.items_delivered, again.items_left_out) == (None, 1, 0)
    assert json.loads(path.read_text())["left_out"] == []


def test_by_default_nothing_is_accepted(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/2.mp4"] = Fault(status=404)
    report = run(order_for(site, tmp_path, incomplete_reasons="CourseNotFound"))
    assert (report.reason, report.items_left_out) == (Reason.COURSE_NOT_FOUND, 0)


def test_what_a_retry_can_help_is_accepted_in_the_last_attempt_only(
    site: FaultySite, tmp_path: Path
) -> None:
    site.faults["/2.mp4"] = Fault(status=500)
    reasons = [
        run(order_for(site, tmp_path, attempt=attempt, **ACCEPTED)).reason for attempt in (1, 2, 3)
    ]
    assert reasons == [Reason.SITE_ERROR, Reason.SITE_ERROR, None]


def test_a_reason_that_is_not_accepted_fails_the_run(site: FaultySite, tmp_path: Path) -> None:
    site.faults |= {"/2.mp4": Fault(status=403), "/3.mp4": Fault(status=404)}
    report = run(order_for(site, tmp_path, attempt=3, **ACCEPTED))
    assert (report.reason, report.items_failed) == (Reason.ACCESS_DENIED, 1)
    assert report.items_left_out == 1


def test_a_course_of_which_nothing_is_delivered_is_never_complete(
    site: FaultySite, tmp_path: Path
) -> None:
    site.faults |= {f"/{n}.mp4": Fault(status=404) for n in range(1, 5)}
    report = run(order_for(site, tmp_path, attempt=3, **ACCEPTED))
    assert (report.reason, report.items_failed) == (Reason.COURSE_NOT_FOUND, 4)
    assert delivered(tmp_path) == {}


def test_only_reasons_of_items_can_be_accepted() -> None:
    with pytest.raises(ValidationError, match="'CookiesExpired' cannot be accepted: write one"):
        WorkerSettings(incomplete_reasons="DrmProtected,CookiesExpired")
