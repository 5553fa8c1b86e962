"""Items are identified by what they are: never by position, and never mixed."""

import sys
import threading
from pathlib import Path

from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, manifest, order_for, run

from enrollgate.worker.downloaders.yt_dlp import YtDlp


def test_an_entry_that_is_gone_does_not_end_the_listing(site: FaultySite, tmp_path: Path) -> None:
    entries = [
        {"_type": "url", "url": f"https://h.example/{n}", "id": str(n), "title": str(n)}
        for n in (1, 3)
    ]
    downloader = YtDlp(order_for(site, tmp_path, scratch_dir=tmp_path), threading.Event())
    items = list(downloader._items([entries[0], None, entries[1]], ()))
    downloader.close()
    assert [(item.title, item.index) for item in items] == [("1", 1), ("3", 3)]


def feed(site: FaultySite, numbers: list[int]) -> tuple[str, bytes]:
    """A feed whose lectures differ in their URLs' queries only."""
    items = "".join(
        f"<item><title>L{n}</title>"
        f'<enclosure url="{site.url}/play?id={n}" type="video/mp4"/></item>'
        for n in numbers
    )
    text = f'<?xml version="1.0"?><rss version="2.0"><channel><title>C</title>{items}'
    return "application/rss+xml", f"{text}</channel></rss>".encode()


def test_lectures_that_differ_by_query_survive_a_new_one_on_top(tmp_path: Path) -> None:
    with FaultySite([]) as site:
        site.pages |= {f"/play?id={n}": ("video/mp4", lecture(5000 + n, n)) for n in (1, 2, 3)}
        site.pages["/c"] = feed(site, [2, 1])
        assert run(order_for(site, tmp_path, course_url=f"{site.url}/c")).reason is None
        site.pages["/c"] = feed(site, [3, 2, 1])
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/c"))
        assert (report.reason, report.items_delivered, report.items_skipped) == (None, 1, 2)
        assert lecture(5003, 3) in delivered(tmp_path).values(), "the new lecture never came"


def test_a_partial_file_of_another_rendition_is_not_continued(
    site: FaultySite, tmp_path: Path
) -> None:
    hd, sd = lecture(300_000, 11), lecture(200_000, 12)
    site.lectures[:2] = [Lecture("hd", hd), Lecture("sd", sd)]

    def page(best: int) -> tuple[str, bytes]:
        sources = "".join(
            f'<source src="{site.url}/{n}.mp4" label="{720 if n == best else 360}p">'
            for n in (1, 2)
        )
        return "text/html", f"<html><title>P</title><video>{sources}</video></html>".encode()

    site.pages["/page"] = page(1)
    site.faults["/1.mp4"] = Fault(reset_after=100_000)
    order = order_for(site, tmp_path, course_url=f"{site.url}/page")
    assert run(order).reason is not None
    (partial,) = (tmp_path / "scratch").rglob("*.part")
    assert 0 < partial.stat().st_size < len(hd)
    site.pages["/page"] = page(2)
    assert run(order).reason is None
    assert list(delivered(tmp_path).values()) == [sd]
    assert [sent.range for sent in site.sent if sent.path == "/2.mp4"].count(None) > 0
    assert not partial.exists()


def test_a_file_name_that_is_not_utf8_is_delivered_with_escapes(
    site: FaultySite, tmp_path: Path
) -> None:
    program = "import os, sys; open(os.fsencode(sys.argv[2]) + b'/caf\\xe9.txt', 'wb').write(b'x')"
    command = (sys.executable, "-c", program, "{course_url}", "{output_dir}")
    order = order_for(site, tmp_path, downloader="command", download_command=command)
    report = run(order)
    assert report.reason is None, report
    assert list(delivered(tmp_path)) == ["task 7 [task-7]/01 - caf_xe9.txt"]
    again = run(order)
    assert (again.reason, again.items_skipped) == (None, 1), "it is found again"


def test_a_course_that_grows_past_99_items_keeps_its_names_in_order(tmp_path: Path) -> None:
    content = lecture()
    with FaultySite([Lecture(f"L{n}", content, "") for n in range(1, 3)]) as site:
        assert run(order_for(site, tmp_path)).reason is None
        assert [Path(name).name for name in delivered(tmp_path)] == ["01 - L1.mp4", "02 - L2.mp4"]
        site.lectures = [Lecture(f"L{n}", content) for n in range(1, 102)]
        report = run(order_for(site, tmp_path))
        assert (report.reason, report.items_delivered, report.items_skipped) == (None, 99, 2)
        names = [f"{n:03d} - L{n}.mp4" for n in range(1, 102)]
        assert [Path(name).name for name in delivered(tmp_path)] == names
        assert sorted(str(entry["file"]) for entry in manifest(tmp_path)) == names
        assert run(order_for(site, tmp_path)).items_skipped == 101


def test_an_inserted_lecture_renumbers_those_after_it(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/c"] = feed(site, [1, 2])
    site.pages |= {f"/play?id={n}": ("video/mp4", lecture(5000 + n, n)) for n in (1, 2, 3)}
    assert run(order_for(site, tmp_path, course_url=f"{site.url}/c")).reason is None
    site.pages["/c"] = feed(site, [1, 3, 2])
    assert run(order_for(site, tmp_path, course_url=f"{site.url}/c")).reason is None
    names = [Path(name).name for name in delivered(tmp_path)]
    assert names == ["01 - L1.mp4", "02 - L3.mp4", "03 - L2.mp4"]
