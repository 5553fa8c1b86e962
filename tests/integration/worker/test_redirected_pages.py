"""A course URL that redirects leads to the same course as the page behind it."""

from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite
from tests.media import lecture
from tests.orders import delivered, order_for, run


@pytest.mark.parametrize("location", ["{site}/page", "/page", "/page/", "/page?part=1"])
def test_redirected_course_url_delivers_the_page_behind_it(tmp_path: Path, location: str) -> None:
    with FaultySite([]) as site:
        videos = "".join(f'<video src="/{n}.mp4"></video>' for n in (1, 2))
        target = location.format(site=site.url)
        path = target.removeprefix(site.url).partition("?")[0]
        site.pages[path] = ("text/html", f"<html><title>A course</title>{videos}</html>".encode())
        site.pages |= {f"/{n}.mp4": ("video/mp4", lecture(5_000, n)) for n in (1, 2)}
        site.faults["/course"] = Fault(location=target)
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
    assert report.reason is None, report
    assert sorted(delivered(tmp_path).values()) == sorted(lecture(5_000, n) for n in (1, 2))
