"""Over several attempts every listed lecture is delivered exactly once, however it is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, order_for, run

CONTENTS = [lecture(5_000 + n, n) for n in range(4)]
Listing = Callable[[FaultySite, list[int], str], tuple[str, bytes]]


def videos(site: FaultySite, numbers: list[int], address: str) -> tuple[str, bytes]:
    """A page of `<video>`s. `address` is what comes before and after the lectures' numbers."""
    tags = "".join(f'<video src="{site.url}{address.format(n)}"></video>' for n in numbers)
    return "text/html", f"<html><title>Clay</title>{tags}</html>".encode()


def feed(
    site: FaultySite, numbers: list[int], address: str, guid: str = "same"
) -> tuple[str, bytes]:
    items = "".join(
        f"<item><title>L{n}</title><guid>{guid}</guid>"
        f'<enclosure url="{escape(site.url + address.format(n))}" type="video/mp4"/></item>'
        for n in numbers
    )
    text = f'<?xml version="1.0"?><rss version="2.0"><channel><title>C</title>{items}'
    return "application/rss+xml", f"{text}</channel></rss>".encode()


def serve(site: FaultySite, numbers: list[int], address: str) -> None:
    """Serve the lectures at these addresses, and no longer at those of before."""
    site.pages.clear()
    for n in numbers:
        path = address.format(n)
        key = path if path.startswith("/play") else path.partition("?")[0]
        site.pages[key] = ("video/mp4", CONTENTS[n])


def whole_manifest(tmp_path: Path) -> str:
    (path,) = (tmp_path / "out").rglob("manifest.json")
    return path.read_text()


@pytest.mark.parametrize("listing", [videos, feed])
@pytest.mark.parametrize(
    "address",
    [
        "/{}.mp4",
        "/{}.mp4?md5=secret-RUN&expires=17000000",
        "/{}.mp4?token=secret-RUN",
        "/secret-RUN/{}.mp4",
        "/play?id={}&session_id=7",
        "/play?e={}",
        "/play?hash={}&token=secret-RUN",
    ],
)
def test_three_attempts_with_new_signatures_deliver_each_lecture_once(
    tmp_path: Path, listing: Listing, address: str
) -> None:
    # Before the second attempt there is a new lecture on top; before the third two are swapped.
    orders = [[0, 1], [2, 0, 1], [2, 1, 0]]
    with FaultySite([]) as site:
        order = order_for(site, tmp_path, course_url=f"{site.url}/course", downloads=1)
        for attempt, numbers in enumerate(orders, 1):
            signed = address.replace("RUN", f"{attempt}" * 8)
            serve(site, numbers, signed)
            site.pages["/course"] = listing(site, numbers, signed)
            broken = signed.format(1).partition("?")[0]
            site.faults = {broken: Fault(status=503)} if attempt == 1 and "mp4" in signed else {}
            report = run(replace(order, attempt=attempt))
            if attempt > 1 or "mp4" not in signed:
                assert report.reason is None, report
        files = delivered(tmp_path)
    assert sorted(files.values()) == sorted(CONTENTS[:3])
    assert "secret" not in whole_manifest(tmp_path) + report.encode() + "".join(files)


def test_a_replaced_file_is_downloaded_again_and_takes_its_place(tmp_path: Path) -> None:
    with FaultySite([Lecture("A", CONTENTS[0]), Lecture("B", CONTENTS[1])]) as site:
        order = order_for(site, tmp_path)
        assert run(order).reason is None
        site.lectures[1] = Lecture("B", CONTENTS[2])
        again = run(order)
        assert (again.items_delivered, again.items_skipped) == (1, 1)
    assert list(delivered(tmp_path).values()) == [CONTENTS[0], CONTENTS[2]]


def test_skipping_costs_one_request_without_a_body(tmp_path: Path) -> None:
    with FaultySite([Lecture("A", CONTENTS[0])]) as site:
        order = order_for(site, tmp_path)
        run(order)
        site.sent.clear()
        assert run(order).items_skipped == 1
        asked = [(sent.method, sent.bytes) for sent in site.sent if sent.path == "/1.mp4"]
        assert asked == [("HEAD", 0)]
        site.faults["/1.mp4"] = Fault(status=503)
        assert run(order).items_skipped == 1, "the site says nothing, so the id decides"


def test_the_same_address_listed_twice_is_delivered_twice(tmp_path: Path) -> None:
    with FaultySite([]) as site:
        serve(site, [0], "/{}.mp4")
        site.pages["/course"] = feed(site, [0, 0], "/{}.mp4")
        order = order_for(site, tmp_path, course_url=f"{site.url}/course")
        assert run(order).items_delivered == 2
        assert run(order).items_skipped == 2
    assert list(delivered(tmp_path).values()) == [CONTENTS[0]] * 2


@pytest.mark.parametrize("change", ["/view?id_session={}", "/view#lecture-{}", "/view?design={}"])
def test_a_corrected_course_url_is_another_course(tmp_path: Path, change: str) -> None:
    with FaultySite([]) as site:
        serve(site, [0, 1], "/{}.mp4")
        for n in (0, 1):
            site.pages["/view"] = videos(site, [n], "/{}.mp4")
            order = order_for(site, tmp_path, course_url=f"{site.url}{change.format(n)}")
            assert run(order).items_delivered == 1
    assert len(list((tmp_path / "out").rglob("manifest.json"))) == 2
    assert sorted(delivered(tmp_path).values()) == sorted(CONTENTS[:2])


def test_more_than_99_lectures_have_names_that_sort(tmp_path: Path) -> None:
    titles = [f"L{n}" for n in range(1, 103)]
    with FaultySite([Lecture(title, lecture(3_000, 1)) for title in titles]) as site:
        order = order_for(site, tmp_path, downloads=4, uploads=4, scratch_limit=10**8)
        report = run(order)
        assert report.reason is None, report
    names = [Path(path).name for path in sorted(delivered(tmp_path))]
    assert names == [f"{n:03d} - L{n}.mp4" for n in range(1, 103)]


def test_a_damaged_validator_in_the_manifest_is_no_validator(tmp_path: Path) -> None:
    with FaultySite([Lecture("A", CONTENTS[0])]) as site:
        order = order_for(site, tmp_path)
        run(order)
        (path,) = (tmp_path / "out").rglob("manifest.json")
        content = json.loads(path.read_text())
        content["items"][0]["validators"] = {"etag": 7}
        path.write_text(json.dumps(content))
        assert run(order).items_skipped == 1


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream"])
def test_a_direct_lecture_costs_one_request(tmp_path: Path, kind: str) -> None:
    with FaultySite([]) as site:
        serve(site, [0, 1], "/{}.mp4")
        site.pages |= {f"/{n}.mp4": (kind, CONTENTS[n]) for n in (0, 1)}
        site.pages["/course"] = feed(site, [0, 1], "/{}.mp4")
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
        assert report.reason is None, report
        asked = sorted(sent.path for sent in site.sent)
    assert asked == ["/0.mp4", "/1.mp4", "/course"]
    assert list(delivered(tmp_path).values()) == CONTENTS[:2]


def test_a_redirected_lecture_is_redirected_once(tmp_path: Path) -> None:
    with FaultySite([]) as site:
        serve(site, [0], "/{}.mp4")
        site.faults["/go/0.mp4"] = Fault(location=f"{site.url}/0.mp4")
        site.pages["/course"] = feed(site, [0], "/go/{}.mp4")
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
        assert report.reason is None, report
        asked = sorted(sent.path for sent in site.sent)
    assert asked == ["/0.mp4", "/course", "/go/0.mp4"]
