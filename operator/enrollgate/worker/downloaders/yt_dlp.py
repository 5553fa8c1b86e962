"""The yt-dlp downloader: list a course lazily, download each entry by itself.

What goes in: the course's URL, the account's cookies and the allowed hosts. What comes out: items,
and one complete file for each. A simpler program would get these wrong, and each has its test:

- yt-dlp skips a failed HLS fragment silently by default.
- A title in an output template can lead out of the folder.
- yt-dlp writes the cookies file back.
- Udemy's extractor enrolls the account in a free course. A worker must never enroll.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yt_dlp.utils import int_or_none, unsmuggle_url

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Fetched, Item, LoginRequired, OnFetched, PlaylistFound
from enrollgate.worker.downloaders.fetcher import Fetcher, build_options
from enrollgate.worker.downloaders.guarded import (
    NestedPlaylist,
    close_connections,
    open_youtube_dl,
)
from enrollgate.worker.downloaders.yt_dlp_compat import PLAYLIST_TYPES, UdemyIE, replace_method
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures
from enrollgate.worker.identity import unsigned
from enrollgate.worker.order import WorkOrder

# Links that Udemy shows only to accounts that are not enrolled.
_NOT_ENROLLED = ("/course/subscribe/", "/payment/checkout/", "/cart/checkout/")
# Redirects from one extractor to another that are followed for the course's own page.
_MAX_REDIRECTS = 5
# Levels of playlists below the course. Each may cost one request per item of the level above.
_MAX_DEPTH = 3
# Items of a playlist within the course. They are all in memory.
_MAX_NESTED_ITEMS = 10_000
# Characters of an item's id.
_MAX_ID_LENGTH = 200

_Entry = dict[str, Any]


def _never_enroll(_self: object, _base_url: str, webpage: str, course_id: str) -> None:
    """Replace `UdemyIE._enroll_course`, which opens the subscribe page.

    Raises Failure (AccessDenied) if the account is not enrolled: enrollment is Node.js's.
    """
    if any(link in webpage for link in _NOT_ENROLLED):
        raise Failure(Reason.ACCESS_DENIED, f"the account is not enrolled in course {course_id}")


replace_method(UdemyIE, "_enroll_course", _never_enroll)


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry, and the playlists that contain it: their URLs, the course's first."""

    entry: _Entry
    playlists: tuple[str, ...]


class YtDlp:
    """Implement `Downloader` with yt-dlp."""

    def __init__(self, order: WorkOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        # By the items' ids.
        self._listed: dict[str, _Listed] = {}
        self._local = threading.local()
        self._fetchers: list[Fetcher] = []
        options = build_options(copy_cookies(order))
        with errors_as_failures():
            # Lists the course. Each download thread has a Fetcher of its own.
            self._ydl = open_youtube_dl(options, order.settings.allowed_hosts)

    def open(self) -> Course:
        """Request the course's page. Its entries are requested as they are iterated."""
        info: _Entry | None = {"_type": "url", "url": self._order.course_url}
        for _ in range(1 + _MAX_REDIRECTS):
            if info and info.get("_type") in ("url", "url_transparent"):
                with errors_as_failures():
                    info = self._ydl.extract_info(info["url"], download=False, process=False)
        if not info:
            message = "yt-dlp finds nothing to download on this page"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        title = _fix_surrogates(info.get("title") or info.get("id") or "course")
        if info.get("_type") not in PLAYLIST_TYPES:
            return Course(title, self._items([info], ()), 1)
        entries = info.get("entries") or ()
        url = str(info.get("webpage_url") or self._order.course_url)
        total = len(entries) if isinstance(entries, list | tuple) else None
        return Course(title, self._items(entries, (url,)), total)

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        """Download one entry into its folder and continue an earlier attempt's partial file.

        Raises Failure, and PlaylistFound if the entry is a playlist.
        """
        fetcher: Fetcher | None = getattr(self._local, "fetcher", None)
        try:
            if fetcher is None:
                hosts = self._order.settings.allowed_hosts
                fetcher = self._local.fetcher = Fetcher(self._ydl.cookiejar, hosts, self._stop)
                self._fetchers.append(fetcher)
            entry = self._listed[item.item_id].entry
            try:
                return fetcher.fetch(entry, item.index, folder, on_bytes)
            except NestedPlaylist as nested:
                raise PlaylistFound(self._unfold(item, nested.playlist)) from nested
        except LoginRequired as required:
            # One lecture that is locked says nothing about the cookies.
            raise LoginRequired(Reason.ACCESS_DENIED, required.message) from required

    def close(self) -> None:
        """Close yt-dlp's connections."""
        close_connections(self._ydl)
        with errors_as_failures():
            self._ydl.close()
        for fetcher in self._fetchers:
            fetcher.close()

    def _items(
        self, entries: Iterable[_Entry | None], playlists: tuple[str, ...]
    ) -> Iterator[Item]:
        """Yield the course's items as yt-dlp lists them."""
        sections = dict[str, int]()
        for index, entry in _iter_entries(entries):
            item_id = self._identify(entry)
            self._listed[item_id] = _Listed(entry, playlists)
            section = _fix_surrogates(entry.get("chapter") or "")
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            number = int_or_none(entry.get("chapter_number")) or number
            title = _fix_surrogates(entry.get("title") or entry.get("id") or f"item {index}")
            url = _source_url(entry, self._order.course_url)
            yield Item(item_id, index, title, section, number, url)

    def _unfold(self, parent: Item, playlist: _Entry) -> list[Item]:
        """Return the items of a playlist that was listed as one item.

        They are listed at once, because this thread's YoutubeDL must download, too. Raises Failure
        if the playlist contains itself, is nested too deeply, too long or empty.
        """
        outer = self._listed[parent.item_id].playlists
        url = str(playlist.get("webpage_url") or parent.item_id)
        if url in outer or len(outer) > _MAX_DEPTH:
            message = f"this is a playlist within itself, or within more than {_MAX_DEPTH} others"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        items = list[Item]()
        for number, entry in _iter_entries(playlist.get("entries") or ()):
            if self._stop.is_set():
                raise Failure(Reason.STOPPED, "asked to stop; the next attempt lists it again")
            if number > _MAX_NESTED_ITEMS:
                raise Failure(
                    Reason.UNSUPPORTED_COURSE,
                    f"this is a playlist of more than {_MAX_NESTED_ITEMS:,} items",
                    remedy="Write its URL to a row of its own, as a course.",
                )
            item = replace(
                parent,
                item_id=self._identify(entry, f"{parent.item_id}/"),
                title=_fix_surrogates(entry.get("title") or parent.title),
                part=(*parent.part, number),
                source_url=_source_url(entry, parent.source_url),
            )
            self._listed[item.item_id] = _Listed(entry, (*outer, url))
            items.append(item)
        if not items:
            message = "yt-dlp finds nothing to download for this item"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        return items if len(items) > 1 else [replace(items[0], part=parent.part)]

    def _identify(self, entry: _Entry, prefix: str = "") -> str:
        """Return a unique id for the entry that is the same in each attempt.

        It is made of the site's own id, or else of a digest of the URL without its signature.
        """
        url, smuggled = _unsmuggle(str(entry.get("url") or ""))
        extractor = entry.get("ie_key") or entry.get("extractor_key") or "Generic"
        own_id = smuggled.get("force_videoid") or entry.get("id")
        if extractor == "Generic" and own_id is not None and own_id is entry.get("id"):
            # The generic extractor takes it from the URL's last part, query included.
            own_id = str(own_id).partition("?")[0]
        own_id = own_id or _digest(unsigned(url or str(entry.get("title"))))
        name = f"{prefix}{extractor}:{own_id}".encode(errors="replace").decode()
        if len(name) > _MAX_ID_LENGTH:
            name = f"{name[:100]}#{_digest(name)}"
        number, item_id = 1, name
        while item_id in self._listed:
            number += 1
            item_id = f"{name}#{number}"
        return item_id


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _iter_entries(entries: Iterable[_Entry | None]) -> Iterator[tuple[int, _Entry]]:
    """Yield the entries with their positions, counted from 1, without those that are gone (None).

    Raises Failure if yt-dlp fails to list the next one.
    """
    iterator, position = iter(entries), 0
    while True:
        with errors_as_failures():
            try:
                entry = next(iterator)
            except StopIteration:
                return
        position += 1
        if entry is not None:
            yield position, entry


def _source_url(entry: _Entry, default: str) -> str:
    return _fix_surrogates(
        _unsmuggle(str(entry.get("webpage_url") or entry.get("url") or default))[0]
    )


def _unsmuggle(url: str) -> tuple[str, _Entry]:
    """Return the URL without the data that yt-dlp hides in it for itself, and that data."""
    try:
        plain, hidden = unsmuggle_url(url, {})
    except (LookupError, ValueError):  # The site's own text only looks like yt-dlp's data.
        return url, {}
    return plain, hidden if isinstance(hidden, dict) else {}


def _fix_surrogates(text: object) -> str:
    """Return text that can be stored.

    Some sites write an emoji as two halves (`&#55357;&#56832;`), and yt-dlp leaves them apart.
    """
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
