"""yt-dlp as downloader: the course listed lazily, each lecture fetched by itself, errors record_pass into reasons.

What makes the easy version wrong (each has its test): a failed HLS fragment is by default skipped silently; a title in an output
template can leave the folder; the cookies file is written back; and Udemy's extractor *enrolls* the account in a free course
when it is not enrolled, which is the one thing a worker must never do.
"""

import hashlib
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from yt_dlp.extractor import udemy
from yt_dlp.postprocessor.common import PostProcessor
from yt_dlp.utils import DownloadCancelled, YoutubeDLError, int_or_none, unsmuggle_url

from enrollgate.common.redaction import redacted_traceback
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Item, LoginRequired, OnFetched, PlaylistFound
from enrollgate.worker.downloaders.guarded import (
    LISTS,
    Nested,
    SharedCookies,
    close_connections,
    open_youtube_dl,
)
from enrollgate.worker.downloaders.pages import is_page
from enrollgate.worker.downloaders.site_errors import classify
from enrollgate.worker.identity import is_signed, unsigned
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.scratch import CHUNK_SIZE

_NOT_ENROLLED = ("/course/subscribe/", "/payment/checkout/", "/cart/checkout/")
"""Links that Udemy shows only to those who are not enrolled."""


def _never_enroll(_self: object, _base_url: str, webpage: str, course_id: str) -> None:
    """In place of `UdemyIE._enroll_course`, which opens the subscribe page: enrollment is Node.js's."""
    if any(link in webpage for link in _NOT_ENROLLED):
        raise Failure(Reason.ACCESS_DENIED, f"the account is not enrolled in course {course_id}")


udemy.UdemyIE._enroll_course = _never_enroll

_END = object()


_PREFIX = "media-"
"""Of the names of all files in an item's folder."""
_FRAGMENT = ".part-Frag"
"""In the names of a stream's pieces that are not yet part of its file."""
_DEEPEST = 3
"""Lists within lists below the course's own, at most. Each level may ask the site once per item of the one above."""
_LONGEST = 10_000
"""Items of a list within the course's, at most. They are all in memory."""
EXTRACTOR_BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What yt-dlp's readers raise, unwrapped, when a site is no longer what they were written for."""


class _NameByRendition(PostProcessor):  # type: ignore[misc]  # yt-dlp carries no types
    """Puts the chosen rendition into the partial file's name, so that only the same one is ever continued. What an earlier try left
    of another one goes: it would take room, and is never continued. So does the beginning of a login page."""

    folder: Path | None = None

    def run(self, info: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Called once the formats are chosen, before the file is named."""
        chosen = info.get("requested_formats") or [info]
        text = "\n".join(
            f"{each.get('format_id')} {urlsplit(str(each.get('url'))).path}" for each in chosen
        )
        info["rendition"] = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
        for path in self.folder.iterdir() if self.folder is not None else ():
            if not path.name.startswith(f"{_PREFIX}{info['rendition']}.") or is_page(path):
                path.unlink()
        return [], info


@dataclass(frozen=True, slots=True)
class _Listed:
    entry: dict[str, Any]
    lists: tuple[str, ...]
    """Those that it is in, the course's first, by their URLs."""


class YtDlp:
    """Implements `Downloader` by yt-dlp."""

    def __init__(self, order: WorkOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        self._listed: dict[str, _Listed] = {}
        """By the items' ids."""
        self._cookies = copy_cookies(order)
        self._ydl = _guard(open_youtube_dl, _options(self._cookies), order.settings.allowed_hosts)
        """Lists the course."""
        self._mine = threading.local()
        self._fetchers: list[_Fetcher] = []

    def open(self) -> Course:
        """Asks the site for the course; its entries are listed as they are wanted."""
        info = _guard(self._ydl.extract_info, self._order.course_url, download=False, process=False)
        for _ in range(5):
            if info and info.get("_type") in ("url", "url_transparent"):
                info = _guard(self._ydl.extract_info, info["url"], download=False, process=False)
        if not info:
            raise Failure(
                Reason.UNSUPPORTED_COURSE, "yt-dlp finds nothing to download on this page"
            )
        title = _fix_surrogates(info.get("title") or info.get("id") or "course")
        if info.get("_type") not in LISTS:
            return Course(title, self._items([info], ()), 1)
        entries = info.get("entries") or ()
        items = self._items(entries, (str(info.get("webpage_url") or self._order.course_url),))
        return Course(title, items, len(entries) if isinstance(entries, list | tuple) else None)

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Path:
        """Fetches one entry into its folder, going on with a partial file that an earlier try left there. Raises PlaylistFound if it is
        a list.
        """
        try:
            return self._fetch(item, folder, on_bytes)
        except LoginRequired as wanted:
            raise LoginRequired(Reason.ACCESS_DENIED, wanted.message) from wanted

    def _fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Path:
        try:
            return self._fetcher().fetch(
                self._listed[item.item_id].entry, item.index, folder, on_bytes
            )
        except Nested as nested:
            raise PlaylistFound(self._unfold(item, nested.listed)) from nested

    def _fetcher(self) -> "_Fetcher":
        """The calling thread's: a YoutubeDL is for one thread."""
        fetcher: _Fetcher | None = getattr(self._mine, "fetcher", None)
        if fetcher is None:
            fetcher = self._mine.fetcher = _Fetcher(
                self._ydl.cookiejar, self._order.settings.allowed_hosts, self._stop
            )
            self._fetchers.append(fetcher)
        return fetcher

    def close(self) -> None:
        """Closes yt-dlp's connections."""
        for ydl in (self._ydl, *(fetcher.ydl for fetcher in self._fetchers)):
            close_connections(ydl)
            _guard(ydl.close)

    def _items(self, entries: Iterable[Any], lists: tuple[str, ...]) -> Iterator[Item]:
        sections = dict[str, int]()
        for index, entry in _present(entries):
            item_id = self._identify(entry)
            self._listed[item_id] = _Listed(entry, lists)
            section = _fix_surrogates(entry.get("chapter") or "")
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            number = int_or_none(entry.get("chapter_number")) or number
            title = _fix_surrogates(entry.get("title") or entry.get("id") or f"item {index}")
            yield Item(
                item_id, index, title, section, number, _address(entry, self._order.course_url)
            )

    def _unfold(self, whole: Item, listed: dict[str, Any]) -> list[Item]:
        """The items of a list that stands in an item's place. They are listed at once: the thread's YoutubeDL has to fetch, too."""
        lists = self._lists_down_to(whole, listed)
        items = list[Item]()
        for number, entry in _present(listed.get("entries") or ()):
            if self._stop.is_set():
                raise Failure(Reason.STOPPED, "asked to stop; the next try lists it again")
            if number > _LONGEST:
                raise Failure(
                    Reason.UNSUPPORTED_COURSE,
                    f"this is a list of more than {_LONGEST:,}: a course of its own",
                )
            item_id = self._identify(entry, f"{whole.item_id}/")
            self._listed[item_id] = _Listed(entry, lists)
            title, url = (
                _fix_surrogates(entry.get("title") or whole.title),
                _address(entry, whole.source_url),
            )
            part = (*whole.part, number)
            items.append(replace(whole, item_id=item_id, title=title, part=part, source_url=url))
        if not items:
            raise Failure(
                Reason.UNSUPPORTED_COURSE, "yt-dlp finds nothing to download for this item"
            )
        return items if len(items) > 1 else [replace(items[0], part=whole.part)]

    def _lists_down_to(self, whole: Item, listed: dict[str, Any]) -> tuple[str, ...]:
        """The lists that the items of this one are in, itself included."""
        lists = self._listed[whole.item_id].lists
        name = str(listed.get("webpage_url") or whole.item_id)
        if name in lists or len(lists) > _DEEPEST:
            message = f"this is a list within itself, or within more than {_DEEPEST} others"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        return (*lists, name)

    def _identify(self, entry: dict[str, Any], within: str = "") -> str:
        """A name for the entry that is the same on every try: the site's own id, else a digest of its unsigned URL."""
        url, smuggled = _unsmuggled(str(entry.get("url") or ""))
        kind = entry.get("ie_key") or entry.get("extractor_key") or "Generic"
        own = smuggled.get("force_videoid") or entry.get("id")
        if kind == "Generic" and own is entry.get(
            "id"
        ):  # made of the URL's last part, query included
            own = None if own is None else str(own).partition("?")[0]
        own = (
            own
            or hashlib.sha256(
                unsigned(url or str(entry.get("title"))).encode(errors="replace")
            ).hexdigest()[:16]
        )
        name = f"{within}{kind}:{own}".encode(errors="replace").decode()
        if len(name) > 200:
            name = f"{name[:100]}#{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        number, unique = 1, name
        while unique in self._listed:
            number += 1
            unique = f"{name}#{number}"
        return unique


class _Fetcher:
    """Downloads entries for one thread."""

    def __init__(
        self, cookies: SharedCookies, allowed_hosts: tuple[str, ...], stop: threading.Event
    ) -> None:
        """`cookies` are those of the listing: a course's page may set the ones that its media want."""
        hooks = {"progress_hooks": [self._hook], "postprocessor_hooks": [self._postprocess_hook]}
        self.ydl = _guard(open_youtube_dl, _options(None) | hooks, allowed_hosts, cookies)
        self._stop = stop
        self._naming = _NameByRendition()
        self.ydl.add_post_processor(self._naming, when="video")
        self._on_bytes: OnFetched = _ignore
        self._folder = Path()
        self._arrived = dict[str, int]()
        """Bytes of each file of the entry: picture and sound may come pinned_cpus."""

    def fetch(
        self,
        entry: dict[str, Any],
        index: int,
        folder: Path,
        on_bytes: OnFetched,
    ) -> Path:
        """The complete file of the entry."""
        self._on_bytes = on_bytes
        self._folder = self._naming.folder = folder
        self._arrived.clear()
        # The name never contains what the site says, so it cannot lead anywhere, and is the same on the next try.
        self.ydl.params["outtmpl"]["default"] = (
            str(folder).replace("%", "%%") + f"/{_PREFIX}%(rendition)s.%(ext)s"
        )
        extra = {"playlist_index": index} if entry.get("_type", "video") != "video" else {}
        try:
            result = _guard(
                self.ydl.process_ie_result, dict(entry), download=True, extra_info=extra
            )
        except Failure as failure:
            if failure.reason is Reason.ACCESS_DENIED and _may_have_expired(entry):
                raise Failure(
                    Reason.INCOMPLETE_DOWNLOAD, "its signed address has expired"
                ) from failure
            raise
        finally:
            close_connections(self.ydl)
        found = [
            Path(each["filepath"])
            for each in (result or {}).get("requested_downloads", ())
            if "filepath" in each
        ]
        files = [file for file in found if file.is_file()]
        if len(files) != 1:
            raise Failure(
                Reason.UNSUPPORTED_COURSE, f"yt-dlp gave {len(files)} files for this item, not one"
            )
        size = files[0].stat().st_size
        on_bytes(size, size)
        return files[0]

    def _hook(self, state: dict[str, Any]) -> None:
        if self._stop.is_set():
            raise DownloadCancelled("asked to stop")
        got = int(state.get("downloaded_bytes") or 0)
        self._arrived[str(state.get("filename"))] = got
        total = state.get("total_bytes") or state.get("total_bytes_estimate")
        used = self._room()
        self._on_bytes(
            used, None if total is None else used - got + int(total), sum(self._arrived.values())
        )

    def _room(self) -> int:
        """What the item takes on disk, or is about to: a stream's piece is there twice while it is appended to its file."""
        sizes = [(path.name, path.stat().st_size) for path in self._folder.iterdir()]
        return sum(size * (2 if _FRAGMENT in name else 1) for name, size in sizes)

    def _postprocess_hook(self, state: dict[str, Any]) -> None:
        """ffmpeg writes the joined or mended file beside the downloaded ones."""
        if (
            state.get("status") == "started"
            and state.get("postprocessor") != "MoveFilesAfterDownload"
            and self._arrived
        ):
            size = 2 * self._room()
            self._on_bytes(size, size, sum(self._arrived.values()))


def _present(entries: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What yt-dlp lists, as it lists it, with its places from 1; without the places whose lecture is gone."""
    listed, place = iter(entries), 0
    while (entry := _guard(next, listed, _END)) is not _END:
        place += 1
        if entry is not None:
            yield place, entry


def _may_have_expired(entry: dict[str, Any]) -> bool:
    """Whether the site signed the media's address when it listed the course. The next try gets a new one."""
    media = [entry, *(entry.get("formats") or ())] if entry.get("_type", "video") == "video" else []
    return any(is_signed(str(each.get("url") or "")) for each in media)


def _address(entry: dict[str, Any], otherwise: str) -> str:
    """Where the entry is from."""
    return _fix_surrogates(
        _unsmuggled(str(entry.get("webpage_url") or entry.get("url") or otherwise))[0]
    )


def _unsmuggled(url: str) -> tuple[str, dict[str, Any]]:
    """The URL without what yt-dlp hides in it for itself, and that."""
    try:
        plain, hidden = unsmuggle_url(url, {})
    except (LookupError, ValueError):  # the site's own words, not yt-dlp's
        return url, {}
    return plain, hidden if isinstance(hidden, dict) else {}


def _fix_surrogates(text: object) -> str:
    """Text that can be stored. Some sites write an emoji as two halves (`&#55357;&#56832;`), which yt-dlp leaves pinned_cpus."""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _ignore(current: int, expected: int | None, arrived: int | None = None) -> None:
    """Before the first item nobody listens."""


def _options(cookies: Path | None) -> dict[str, Any]:
    return {
        "outtmpl": {"default": "media.%(ext)s"},
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": "never",
        "cachedir": False,
        "js_runtimes": {},  # a program of its own, with a network of its own
        "geo_bypass": False,  # no other country is pretended
        "cookiefile": str(cookies) if cookies else None,
        "skip_unavailable_fragments": False,
        "allow_unplayable_formats": False,
        "hls_prefer_native": True,
        "fixup": "force",  # or a file that an earlier try completed, and died before ffmpeg had mended it, stays as it is
        "continuedl": True,
        "noplaylist": False,
        "ignoreerrors": False,
        "writethumbnail": False,
        "retries": 2,
        "fragment_retries": 3,
        "extractor_retries": 1,
        "socket_timeout": 30,
        "buffersize": CHUNK_SIZE,
        "noresizebuffer": True,  # or it reads up to 4 MiB before it tells of them
    }


def _guard(function: Any, *arguments: Any, **options: Any) -> Any:
    """Calls yt-dlp, and turns what it raises into a Failure."""
    try:
        return function(*arguments, **options)
    except Failure:
        raise
    except DownloadCancelled as error:
        raise Failure(
            Reason.STOPPED, "asked to stop; the partial file is kept for the next try"
        ) from error
    except (YoutubeDLError, OSError) as error:
        _raise(error)
    except EXTRACTOR_BUGS as error:
        # What a reader meets when its site has changed. Of one lecture it must not end the run.
        sys.stderr.write(redacted_traceback())
        message = f"yt-dlp's reader of this site failed ({type(error).__name__}); a newer yt-dlp may mend it"
        raise Failure(Reason.UNSUPPORTED_COURSE, message) from error


def _raise(error: BaseException) -> NoReturn:
    failure = classify(error)
    if failure.reason is Reason.UNSUPPORTED_COURSE:
        sys.stderr.write(f"yt-dlp: {failure.message}\n")
    raise failure from error
