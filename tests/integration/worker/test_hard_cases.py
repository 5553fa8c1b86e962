"""The worker where it would be easy to be wrong in silence: false successes, mixed files, leaked secrets, wasted lectures."""

import contextlib
import errno
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.conftest import absent
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.orders import delivered, order_for, run

from enrollgate.domain.hosts import check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker import work
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Course, Delivered, Item
from enrollgate.worker.pipeline import Pipeline, TransferLimits
from enrollgate.worker.progress import Progress


class _Files:
    def __init__(self, n=3):
        self.items = [Item(f"i{k}", k, f"L{k}", "", 0, "u") for k in range(1, n + 1)]

    def open(self):
        return Course("c", iter(self.items), len(self.items))

    def fetch(self, item, folder, on_bytes):
        path = folder / "f.mp4"
        path.write_bytes(b"x" * 100)
        return path

    def close(self): ...


class _Place:
    location = ("", "")

    def __init__(self, bad):
        self.bad = bad

    def open(self, title): ...
    def find(self, item):
        return None

    def deliver(self, item, file, on_bytes):
        if item.item_id == self.bad:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return Delivered(item.item_id, 100, "")


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_unforeseen_error_while_delivering_is_never_a_success(
    tmp_path: Path, lanes: int
) -> None:
    down = _Files()
    free = Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep)
    p = Pipeline(
        down,
        _Place("i2"),
        folder=tmp_path,
        scratch_limit=10**6,
        limits=TransferLimits(lanes, lanes, free, free),
        progress=Progress(path=None, clock=time.time),
        stop=threading.Event(),
    )
    with pytest.raises(UnicodeEncodeError):
        p.run(down.open())


def test_a_none_entry_does_not_cut_the_course_short(site, tmp_path: Path) -> None:
    from enrollgate.worker.downloaders.yt_dlp import YtDlp

    y = YtDlp(order_for(site, tmp_path, scratch_dir=tmp_path), threading.Event())

    def e(n):
        return {"_type": "url", "url": f"https://h.example/{n}", "id": str(n), "title": str(n)}

    got = [i.title for i in y._items([e(1), None, e(3)], ())]
    y.close()
    assert "3" in got, got


def feed(site, numbers, q="/play?id="):
    items = "".join(
        f'<item><title>L{n}</title><enclosure url="{site.url}{q}{n}" type="video/mp4"/></item>'
        for n in numbers
    )
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>C</title>{items}</channel></rss>'.encode()


def test_lectures_told_apart_by_query_only_survive_a_new_one_at_the_top(
    tmp_path: Path, monkeypatch
) -> None:
    import tests.faulty_site as fs

    orig = fs._Handler._serve

    def serve(self, *, with_body):
        if self.path.startswith("/play?id="):
            n = int(self.path.rpartition("=")[2])
            return self._send(200, content(5000 + n, n), "video/mp4", {}, Fault(), with_body)
        return orig(self, with_body=with_body)

    monkeypatch.setattr(fs._Handler, "_serve", serve)
    with FaultySite([]) as s:
        s.pages["/c"] = ("application/rss+xml", feed(s, [2, 1]))
        assert run(order_for(s, tmp_path, course_url=f"{s.url}/c")).reason is None
        s.pages["/c"] = ("application/rss+xml", feed(s, [3, 2, 1]))
        r = run(order_for(s, tmp_path, course_url=f"{s.url}/c"))
        assert r.reason is None
        assert content(5003, 3) in delivered(tmp_path).values(), f"the new lecture never came: {r}"


def test_cookie_values_never_reach_the_log(site, tmp_path: Path, capfd) -> None:
    (tmp_path / "cookies.txt").write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1 FALSE / FALSE 4102444800 session TOPSECRET\n"
    )
    run(order_for(site, tmp_path, cookies_dir=tmp_path))
    out = capfd.readouterr()
    assert "TOPSECRET" not in out.err + out.out


def test_a_cookies_file_without_one_valid_line_is_unreadable(site, tmp_path: Path) -> None:
    (tmp_path / "cookies.txt").write_text("127.0.0.1 FALSE / FALSE 4102444800 session TOPSECRET\n")
    assert run(order_for(site, tmp_path, cookies_dir=tmp_path)).reason is Reason.COOKIES_UNREADABLE


def test_work_never_raises_when_progress_cannot_be_written(site, tmp_path: Path) -> None:
    work(
        order_for(site, tmp_path, progress_path=tmp_path / "none" / "p.json"),
        stop=threading.Event(),
    )


def test_a_full_disk_under_scratch_and_progress_is_called_by_its_name(site, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(small)], check=False
    )
    if mounted.returncode != 0:
        absent("the right to mount a small disk", "run as root, where mount works")
    try:
        r = work(
            order_for(site, tmp_path, scratch_dir=small / "s", progress_path=small / "p.json"),
            stop=threading.Event(),
        )
        assert (r.reason, r.message) == (Reason.DISK_FULL, "no space is left for scratch files"), r
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_five_refused_lectures_in_a_row_do_not_waste_the_rest(tmp_path: Path) -> None:
    with FaultySite([Lecture(f"L{n}", content(5000, n)) for n in range(1, 9)]) as s:
        s.faults |= {f"/{n}.mp4": Fault(status=403) for n in range(1, 6)}
        r = run(order_for(s, tmp_path))
        assert r.items_delivered == 3, r


def test_what_is_downloaded_is_delivered_although_the_cookies_then_expire(
    site, tmp_path: Path, monkeypatch
) -> None:
    from enrollgate.worker.destinations.directory import Directory

    orig = Directory.deliver
    failed = threading.Event()
    note = Pipeline._record_failure

    def slow(self, item, file, on_bytes):
        failed.wait(20)  # lecture 1 is being delivered while lecture 3's 401 comes in
        return orig(self, item, file, on_bytes)

    def noted(self, item, failure):
        note(self, item, failure)
        failed.set()

    monkeypatch.setattr(Directory, "deliver", slow)
    monkeypatch.setattr(Pipeline, "_record_failure", noted)
    site.faults["/4.mp4"] = Fault(status=401)
    r = run(order_for(site, tmp_path))
    assert r.reason is Reason.COOKIES_EXPIRED and r.items_delivered == 3, r


def test_no_other_country_is_faked(site, tmp_path: Path) -> None:
    from yt_dlp.extractor.common import InfoExtractor
    from yt_dlp.utils import YoutubeDLError

    from enrollgate.worker.downloaders.yt_dlp import YtDlp

    seen = []

    class GeoIE(InfoExtractor):
        _VALID_URL = r"geo:(?P<id>.+)"

        def _real_extract(self, url):
            seen.append(self._x_forwarded_for_ip)
            self.raise_geo_restricted(countries=["DE"])

    y = YtDlp(order_for(site, tmp_path, scratch_dir=tmp_path), threading.Event())
    y._ydl.add_info_extractor(GeoIE())
    with pytest.raises(YoutubeDLError):
        y._ydl.extract_info("geo:1", ie_key="Geo", process=False)
    y.close()
    assert seen == [None], f"retried with a faked X-Forwarded-For: {seen}"


def test_a_partial_file_of_another_rendition_is_not_continued(site, tmp_path: Path) -> None:
    hd, sd = content(300_000, 11), content(200_000, 12)
    site.lectures[0] = Lecture("hd", hd)
    site.lectures[1] = Lecture("sd", sd)

    def page(n):
        return (
            "text/html",
            f'<html><title>P</title><video><source src="{site.url}/{n}.mp4" label="{n}"></video></html>'.encode(),
        )

    site.pages["/page"] = page(1)
    site.faults["/1.mp4"] = Fault(reset_after=100_000)
    run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    site.pages["/page"] = page(2)
    r = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    files = list(delivered(tmp_path).values())
    assert r.reason is not None or files == [sd], "a mixture of two files was delivered as success"


def test_a_direct_url_s_token_stays_out_of_names_manifest_and_log(
    tmp_path: Path, capfd, monkeypatch
) -> None:
    import tests.faulty_site as fs

    orig = fs._Handler._serve
    monkeypatch.setattr(
        fs._Handler,
        "_serve",
        lambda self, *, with_body: (
            self._send(200, content(5000), "video/mp4", {}, Fault(), with_body)
            if self.path.startswith("/play")
            else orig(self, with_body=with_body)
        ),
    )
    with FaultySite([]) as s:
        r = run(order_for(s, tmp_path, course_url=f"{s.url}/play?token=TOPSECRET"))
    assert r.reason is None
    everything = "".join(map(str, tmp_path.rglob("*"))) + "".join(
        p.read_text() for p in tmp_path.rglob("*.json")
    )
    assert "TOPSECRET" not in everything + capfd.readouterr().err + r.encode(), (
        "the token is on disk or in the log"
    )


def test_nat64_and_ipv4_compatible_addresses_are_private() -> None:
    for host in ("[64:ff9b::a00:1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]"):
        with pytest.raises(Failure):
            check_url(f"https://{host}/", ())


COMMAND = "import sys,os;o=sys.argv[2];{}"


def command(site, tmp_path, code, **more):
    return run(
        order_for(
            site,
            tmp_path,
            downloader="command",
            download_command=(
                sys.executable,
                "-c",
                COMMAND.format(code),
                "{course_url}",
                "{output_dir}",
            ),
            **more,
        )
    )


def test_a_file_name_that_is_no_utf8_is_delivered_or_explained(site, tmp_path: Path) -> None:
    r = command(site, tmp_path, "open(os.fsencode(o)+b'/caf\\xe9.mp4','wb').write(b'x')")
    assert r.reason is not Reason.WORKER_CRASHED, r


def test_the_command_s_output_is_redacted_in_the_log(site, tmp_path: Path, capfd) -> None:
    command(
        site,
        tmp_path,
        "print('for ada@example.com https://h/x?sig=TOPSECRET',flush=True);open(o+'/a.mp4','wb').write(b'x')",
    )
    o = capfd.readouterr()
    assert "TOPSECRET" not in o.out + o.err and "ada@" not in o.out + o.err


def test_a_strange_retry_after_is_no_crash(site, tmp_path: Path) -> None:
    site.faults["/feed"] = Fault(status=429, headers={"Retry-After": "\u00b2"})
    assert run(order_for(site, tmp_path)).reason is Reason.RATE_LIMITED


@pytest.mark.parametrize("lanes", [1, 3])
def test_scratch_on_the_disk_never_exceeds_its_limit(
    tmp_path: Path, monkeypatch, lanes: int
) -> None:
    from enrollgate.worker.destinations.directory import Directory

    limit = 3_000_000
    orig = Directory.deliver
    peak = 0
    lock = threading.Lock()

    def du() -> None:
        nonlocal peak
        with (
            lock,
            contextlib.suppress(FileNotFoundError),
        ):  # a folder went while we looked: the next look comes at once
            total = 0
            for p in (tmp_path / "scratch").rglob("*"):
                with contextlib.suppress(OSError):
                    total += p.stat().st_size if p.is_file() else 0
            peak = max(peak, total)

    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            du()

    def slow(self, item, file, on_bytes):
        time.sleep(0.3)
        return orig(self, item, file, on_bytes)

    monkeypatch.setattr(Directory, "deliver", slow)
    with FaultySite([Lecture(f"L{n}", content(2_000_000, n)) for n in range(1, 6)]) as s:
        t = threading.Thread(target=watch)
        t.start()
        r = run(order_for(s, tmp_path, scratch_limit=limit, downloads=lanes, uploads=lanes))
        done.set()
        t.join()
    assert r.reason is None, r
    assert 2_000_000 <= peak <= limit, f"peak {peak:,}, limit {limit:,}"


def test_leftovers_of_failed_items_count_too(tmp_path: Path) -> None:
    limit = 1_000_000
    with FaultySite([Lecture(f"L{n}", content(600_000, n)) for n in range(1, 5)]) as s:
        s.faults |= {f"/{n}.mp4": Fault(claim_more=1000) for n in range(1, 5)}
        run(order_for(s, tmp_path, scratch_limit=limit))
    total = sum(p.stat().st_size for p in (tmp_path / "scratch").rglob("*") if p.is_file())
    assert total <= limit, f"{total:,} bytes of partial files lie in a scratch of {limit:,}"


def test_a_403_on_an_hls_fragment_can_be_tried_again(site, tmp_path: Path) -> None:
    pl = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n" + "".join(
        f"#EXTINF:4,\n{site.url}/{n}.mp4\n" for n in (1, 2, 3)
    )
    site.pages["/course.m3u8"] = (
        "application/vnd.apple.mpegurl",
        (pl + "#EXT-X-ENDLIST\n").encode(),
    )
    site.faults["/2.mp4"] = Fault(status=403)
    r = run(order_for(site, tmp_path, course_url=f"{site.url}/course.m3u8"))
    assert r.reason is Reason.INCOMPLETE_DOWNLOAD, r


def test_an_http_proxy_of_the_environment_is_used(site, tmp_path: Path, monkeypatch) -> None:
    hits = []

    class P(BaseHTTPRequestHandler):
        def log_message(self, *a): ...
        def do_GET(self):
            hits.append(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    srv = ThreadingHTTPServer(("127.0.0.1", 0), P)
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{srv.server_address[1]}")
    monkeypatch.setenv("no_proxy", "")
    r = run(
        order_for(
            site,
            tmp_path,
            course_url="http://courses.example.com/f",
            allowed_hosts=("courses.example.com",),
        )
    )
    srv.shutdown()
    srv.server_close()
    assert hits and r.reason is Reason.COURSE_NOT_FOUND, r


def test_the_traceback_of_a_bug_is_redacted(site, tmp_path: Path, monkeypatch, capfd) -> None:
    def broken(*_):
        raise ZeroDivisionError("https://h/x?sig=TOPSECRET ada@example.com")

    monkeypatch.setattr(sys.modules["enrollgate.worker.work"], "build_destination", broken)
    run(order_for(site, tmp_path))
    assert "TOPSECRET" not in capfd.readouterr().err


def test_a_bug_in_the_middle_keeps_what_was_counted(site, tmp_path: Path, monkeypatch) -> None:
    orig = Progress.item_started
    n = []

    def fails(self, item):
        n.append(1)
        if len(n) == 3:
            raise OSError(errno.EIO, "progress")
        return orig(self, item)

    monkeypatch.setattr(Progress, "item_started", fails)
    r = run(order_for(site, tmp_path))
    assert r.items_delivered == 2 and r.destination_id, r


def test_the_destination_says_what_it_lacks_rather_than_download_all_again(
    site, tmp_path: Path, monkeypatch
) -> None:
    import enrollgate.worker.destinations.directory as d

    run(order_for(site, tmp_path))
    monkeypatch.setattr(
        d, "md5_of", lambda p: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    before = site.media_bytes
    r = run(order_for(site, tmp_path))
    assert site.media_bytes == before and r.reason is not None, r
