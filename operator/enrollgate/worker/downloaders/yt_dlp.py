"""The yt-dlp downloader: list a course lazily, download each entry by itself.

What goes in: the course's URL, the account's cookies and the allowed hosts. What comes out: items,
and one complete file for each. A simpler program would get these wrong, and each has its test:

- yt-dlp skips a failed HLS fragment silently by default.
- A title in an output template can lead out of the folder.
- yt-dlp writes the cookies file back.
- Udemy's extractor enrolls the account in a free course. A worker must never enroll: the request
  itself is refused (`enrollgate.domain.enrollment`).
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from yt_dlp.utils import int_or_none

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Fetched, Item, LoginRequired, OnFetched, PlaylistFound
from enrollgate.worker.downloaders.entries import Entry, candidates, unsmuggle
from enrollgate.worker.downloaders.fetcher import Fetcher, build_options
from enrollgate.worker.downloaders.guarded import (
    NestedPlaylist,
    close_connections,
    open_youtube_dl,
)
from enrollgate.worker.downloaders.yt_dlp_compat import PLAYLIST_TYPES
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures
from enrollgate.worker.identity import choose_names
from enrollgate.worker.order import WorkOrder

# Redirects from one extractor to another that are followed for the course's own page.
_MAX_REDIRECTS = 5
# Levels of playlists below the course. Each may cost one request per item of the level above.
_MAX_DEPTH = 3
# Items of a playlist within the course. They are all in memory.
_MAX_NESTED_ITEMS = 10_000
# Digits of the numbers of items and sections, in a list whose length is known only at its end. They
# must be the same in every attempt.
_LAZY_WIDTH = 4
_LAZY_SECTION_WIDTH = 3


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry, and the playlists that contain it: their URLs, the course's first."""

    entry: Entry
    playlists: tuple[str, ...]


class YtDlp:
    """Implement `Downloader` with yt-dlp."""

    def __init__(self, order: WorkOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        # By the items' ids.
        self._listed: dict[str, _Listed] = {}
        self._names = set[str]()
        self._local = threading.local()
        self._fetchers: list[Fetcher] = []
        options = build_options(copy_cookies(order))
        with errors_as_failures():
            # Lists the course. Each download thread has a Fetcher of its own.
            self._ydl = open_youtube_dl(options, order.settings.allowed_hosts, stop)

    def open(self) -> Course:
        """Request the course's page. Its entries are requested as they are iterated."""
        info: Entry | None = {"_type": "url", "url": self._order.course_url}
        for _ in range(1 + _MAX_REDIRECTS):
            if info and info.get("_type") in ("url", "url_transparent"):
                with errors_as_failures():
                    info = self._ydl.extract_info(info["url"], download=False, process=False)
        if not info:
            message = "yt-dlp finds nothing to download on this page"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        title = _fix_surrogates(info.get("title") or info.get("id") or "course")
        extractor = str(info.get("extractor_key") or "Generic")
        if info.get("_type") not in PLAYLIST_TYPES:
            return Course(title, self._items([info], (), extractor), 1)
        entries = info.get("entries") or ()
        url = str(info.get("webpage_url") or self._order.course_url)
        total = len(entries) if isinstance(entries, list | tuple) else None
        count = total or int_or_none(info.get("playlist_count"))
        width = _LAZY_WIDTH if count is None else _digits(count)
        return Course(title, self._items(entries, (url,), extractor, width), total)

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
        self,
        entries: Iterable[Entry | None],
        playlists: tuple[str, ...],
        extractor: str = "Generic",
        width: int = 2,
    ) -> Iterator[Item]:
        """Yield the course's items as yt-dlp lists them. `width`: the digits of their numbers."""
        sections = dict[str, int]()
        section_width = _LAZY_SECTION_WIDTH
        if isinstance(entries, list | tuple):
            section_width = _section_width([each for each in entries if each])
        for index, entry, item_id in self._name_entries(entries, extractor):
            self._listed[item_id] = _Listed(entry, playlists)
            section = _fix_surrogates(entry.get("chapter") or "")
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            number = int_or_none(entry.get("chapter_number")) or number
            title = _fix_surrogates(entry.get("title") or entry.get("id") or f"item {index}")
            url = _source_url(entry, self._order.course_url)
            yield Item(
                item_id,
                index,
                title,
                section,
                number,
                url,
                widths=(width,),
                section_width=section_width,
            )

    def _name_entries(
        self, entries: Iterable[Entry | None], extractor: str, prefix: str = ""
    ) -> Iterator[tuple[int, Entry, str]]:
        """Yield the entries with their positions and names, in their order."""
        listed = _iter_entries(entries)
        if isinstance(entries, list | tuple):
            # All names are known before the first is chosen.
            pairs = list(listed)
            names = choose_names(
                [candidates(entry, extractor, prefix) for _, entry in pairs], self._names
            )
            for (index, entry), name in zip(pairs, names, strict=True):
                yield index, entry, name
            return
        for index, entry in listed:
            names = choose_names(iter([candidates(entry, extractor, prefix)]), self._names)
            yield index, entry, next(names)

    def _unfold(self, parent: Item, playlist: Entry) -> list[Item]:
        """Return the items of a playlist that was listed as one item.

        They are listed at once, because this thread's YoutubeDL must download, too. Raises Failure
        if the playlist contains itself, is nested too deeply, too long or empty.
        """
        outer = self._listed[parent.item_id].playlists
        url = str(playlist.get("webpage_url") or parent.item_id)
        if url in outer or len(outer) > _MAX_DEPTH:
            message = f"this is a playlist within itself, or within more than {_MAX_DEPTH} others"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        entries = list[Entry | None]()
        for number, entry in _iter_entries(playlist.get("entries") or ()):
            if self._stop.is_set():
                raise Failure(Reason.STOPPED, "asked to stop; the next attempt lists it again")
            if number > _MAX_NESTED_ITEMS:
                raise Failure(
                    Reason.UNSUPPORTED_COURSE,
                    f"this is a playlist of more than {_MAX_NESTED_ITEMS:,} items",
                    remedy="Write its URL to a row of its own, as a course.",
                )
            entries += [None] * (number - 1 - len(entries)) + [entry]
        extractor = str(playlist.get("extractor_key") or "Generic")
        widths = (*parent.widths, _digits(len(entries), least=1))
        items = list[Item]()
        for number, entry, item_id in self._name_entries(entries, extractor, f"{parent.item_id}/"):
            item = replace(
                parent,
                item_id=item_id,
                title=_fix_surrogates(entry.get("title") or parent.title),
                part=(*parent.part, number),
                source_url=_source_url(entry, parent.source_url),
                widths=widths,
            )
            self._listed[item.item_id] = _Listed(entry, (*outer, url))
            items.append(item)
        if not items:
            message = "yt-dlp finds nothing to download for this item"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        single = replace(items[0], part=parent.part, widths=parent.widths)
        return items if len(items) > 1 else [single]


def _digits(count: int, least: int = 2) -> int:
    """Return how many digits the numbers of a list of this length have."""
    return max(least, len(str(count)))


def _section_width(entries: list[Entry]) -> int:
    numbers = [int_or_none(entry.get("chapter_number")) or 0 for entry in entries]
    titles = {entry.get("chapter") for entry in entries}
    return _digits(max([len(titles), *numbers]))


def _iter_entries(entries: Iterable[Entry | None]) -> Iterator[tuple[int, Entry]]:
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


def _source_url(entry: Entry, default: str) -> str:
    return _fix_surrogates(
        unsmuggle(str(entry.get("webpage_url") or entry.get("url") or default))[0]
    )


def _fix_surrogates(text: object) -> str:
    """Return text that can be stored.

    Some sites write an emoji as two halves (`&#55357;&#56832;`), and yt-dlp leaves them apart.
    """
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
