"""The yt-dlp downloader: list a course lazily, download each entry by itself.

What goes in: the course's URL, the account's cookies and the allowed hosts. What comes out: items,
and one complete file for each. A simpler program would get these wrong, and each has its test:

- yt-dlp skips a failed HLS fragment silently by default.
- A title in an output template can lead out of the folder.
- yt-dlp writes the cookies file back.
- Udemy's extractor enrolls the account in a free course. A worker must never enroll: the request
  itself is refused (`enrollgate.domain.enrollment`).
- A lecture that is delivered must not hide a subtitle of it that is missing.

What belongs together is found when it is fetched, and takes the place of the listed item:

    listed ──▶ lecture ──▶ subtitles, preview picture, video
          └──▶ attachments
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yt_dlp.utils import KNOWN_EXTENSIONS, clean_html, determine_ext, float_or_none, int_or_none

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies, describe_missing_cookies
from enrollgate.worker.course import (
    Course,
    Delivered,
    Expected,
    Fetched,
    Item,
    ItemKind,
    LoginRequired,
    OnFetched,
    PlaylistFound,
    digits,
)
from enrollgate.worker.course_index import render_article
from enrollgate.worker.downloaders.companions import TEXT, find_companions, has_companions
from enrollgate.worker.downloaders.entries import Entry, candidates, unsmuggle
from enrollgate.worker.downloaders.fetcher import MAX_REDIRECTS, Fetcher, build_options
from enrollgate.worker.downloaders.guarded import (
    NestedPlaylist,
    close_connections,
    explain_last_page,
    open_youtube_dl,
)
from enrollgate.worker.downloaders.site_access import SiteAccess
from enrollgate.worker.downloaders.yt_dlp_compat import PLAYLIST_TYPES
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures
from enrollgate.worker.identity import choose_names
from enrollgate.worker.names import safe_name
from enrollgate.worker.order import WorkOrder

# Levels of playlists below the course. Each may cost one request per item of the level above.
_MAX_DEPTH = 3
# Items of a playlist within the course. They are all in memory.
_MAX_NESTED_ITEMS = 10_000
# Items of all playlists within the course together, and of the course's own list.
_MAX_ITEMS_OF_PLAYLISTS = 50_000
_MAX_ITEMS_OF_COURSE = 100_000
# Digits of the numbers of items and sections, in a list whose length is known only at its end. They
# must be the same in every attempt.
_LAZY_WIDTH = 4
_LAZY_SECTION_WIDTH = 3
# Characters of a description.
_MAX_DESCRIPTION = 10_000
# Seconds. A longer duration is a mistake.
_MAX_DURATION = 1e7
# The end of the id of an item that is no file, but becomes several. It is never delivered.
_GROUP = "#group"


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry, and the playlists that contain it: their URLs, the course's first."""

    entry: Entry
    playlists: tuple[str, ...]


class YtDlp:
    """Implement `Downloader` with yt-dlp."""

    def __init__(
        self,
        order: WorkOrder,
        stop: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order = order
        self._stop = stop
        # By the items' ids.
        self._listed: dict[str, _Listed] = {}
        self._names = set[str]()
        self._items_of_playlists = 0
        self._local = threading.local()
        self._fetchers: list[Fetcher] = []
        cookies = copy_cookies(order)
        self._has_cookies = cookies is not None
        self._site = SiteAccess(
            max_wait=order.settings.max_retry_after,
            min_rate=order.settings.min_download_rate,
            stop=stop,
            monotonic=monotonic,
        )
        options = build_options(cookies)
        with errors_as_failures():
            # Lists the course. Each download thread has a Fetcher of its own.
            hosts = order.settings.allowed_hosts
            self._ydl = open_youtube_dl(options, hosts, stop, site=self._site)

    def open(self) -> Course:
        """Request the course's page. Its entries are requested as they are iterated."""
        info: Entry | None = {"_type": "url", "url": self._order.course_url}
        with self._errors_of_course():
            for _ in range(MAX_REDIRECTS):
                if info and info.get("_type") in ("url", "url_transparent"):
                    with errors_as_failures():
                        info = self._ydl.extract_info(info["url"], download=False, process=False)
            if not info:
                message = "yt-dlp finds nothing to download on this page"
                raise Failure(Reason.UNSUPPORTED_COURSE, message)
            self._raise_if_refused()
        title = _fix_surrogates(info.get("title") or info.get("id") or "course")
        extractor = str(info.get("extractor_key") or "Generic")
        description = _description(info)
        if info.get("_type") not in PLAYLIST_TYPES:
            items = self._items([info], (), extractor)
            return Course(title, self._explained(items), 1, description, self._check)
        entries = info.get("entries") or ()
        url = str(info.get("webpage_url") or self._order.course_url)
        total = len(entries) if isinstance(entries, list | tuple) else None
        count = total or int_or_none(info.get("playlist_count"))
        width = _LAZY_WIDTH if count is None else digits(count)
        items = self._items(entries, (url,), extractor, width)
        return Course(title, self._explained(items), total, description, self._check)

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        """Download one entry into its folder and continue an earlier attempt's partial file.

        Raises Failure, and PlaylistFound if the entry is a playlist or has companions.
        """
        listed = self._listed[item.item_id]
        try:
            fetched = self._fetch(item, listed.entry, folder, on_bytes)
        except LoginRequired as required:
            raise self._explain_login(required) from required
        # It is not fetched again. What extractors say of a lecture takes much memory.
        self._listed[item.item_id] = replace(listed, entry={})
        return fetched

    def _fetch(self, item: Item, entry: Entry, folder: Path, on_bytes: OnFetched) -> Fetched:
        settings, fetcher = self._order.settings, self._fetcher()
        if item.item_id.endswith(_GROUP):
            raise PlaylistFound(self._split(item, fetcher))
        if item.kind in (ItemKind.ARTICLE, ItemKind.LINK) or entry.get("_type") == TEXT:
            return _write_text(item, fetcher.extract(entry), folder)
        try:
            fetched = fetcher.fetch(entry, item.index, folder, on_bytes)
        except NestedPlaylist as nested:
            raise PlaylistFound(self._unfold(item, nested.playlist)) from nested
        if settings.quality == "audio" and item.kind is ItemKind.LECTURE:
            from enrollgate.worker.downloaders.sound import keep_sound  # PyAV takes long to load

            file = keep_sound(fetched.file, on_bytes)
            if file != fetched.file:
                expected = replace(fetched.expected or Expected(), extension=file.suffix)
                return replace(fetched, file=file, expected=expected)
        return fetched

    def is_current(self, item: Item, delivered: Delivered) -> bool:
        """Return whether the site still has the version of the item that was delivered."""
        return self._fetcher().is_current(self._listed[item.item_id].entry, delivered)

    def discard(self, item: Item) -> None:
        """Do nothing: all files of an item are in its folder."""

    def close(self) -> None:
        """Close yt-dlp's connections."""
        close_connections(self._ydl)
        with errors_as_failures():
            self._ydl.close()
        for fetcher in self._fetchers:
            fetcher.close()

    def _fetcher(self) -> Fetcher:
        """Return this thread's Fetcher."""
        fetcher: Fetcher | None = getattr(self._local, "fetcher", None)
        if fetcher is None:
            settings = self._order.settings
            fetcher = self._local.fetcher = Fetcher(
                self._ydl.cookiejar,
                settings.allowed_hosts,
                self._site,
                self._stop,
                settings.quality,
            )
            self._fetchers.append(fetcher)
        return fetcher

    def _check(self) -> None:
        """Request the course's page again. Raises Failure if the site does not grant it."""
        with self._errors_of_course():
            self._fetcher().check(self._order.course_url)

    def _explain_login(self, required: LoginRequired) -> LoginRequired:
        """Return the failure with the truth about the cookies: there may be none."""
        if self._has_cookies:
            return required
        reason = required.reason
        if reason is Reason.COOKIES_EXPIRED:
            reason = Reason.COOKIES_MISSING
        message = f"{required.message}; {describe_missing_cookies(self._order)}"
        return LoginRequired(reason, message, course_reason=Reason.COOKIES_MISSING)

    @contextmanager
    def _errors_of_course(self) -> Iterator[None]:
        """Let a login that is asked for be one of the course, and look why nothing was found."""
        try:
            yield
        except LoginRequired as required:
            raise self._explain_login(required).of_course() from required
        except Failure as failure:
            if failure.reason is Reason.COURSE_NOT_FOUND:
                self._raise_if_refused()
            if failure.reason is Reason.UNSUPPORTED_COURSE:
                self._raise_if_page_explains()
            raise

    def _raise_if_refused(self) -> None:
        """Raise Failure (AccessDenied) if the site wanted to enroll the account.

        What an extractor lists without that is what anybody may see, and not the course.
        """
        if self._ydl.refused is not None:
            raise self._ydl.refused

    def _raise_if_page_explains(self) -> None:
        found = explain_last_page(self._ydl)
        if isinstance(found, LoginRequired):
            raise self._explain_login(found).of_course()
        if found is not None:
            raise found

    def _explained(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the course's items. Raises Failure if it has none because of a login or a wall."""
        is_empty = True
        with self._errors_of_course():
            for item in items:
                is_empty = False
                yield item
            self._raise_if_refused()
        if is_empty:
            self._raise_if_page_explains()

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
            listed = [each for each in entries if each]
            numbers = [int_or_none(each.get("chapter_number")) or 0 for each in listed]
            section_width = digits(max([len({e.get("chapter") for e in listed}), *numbers]))
        left_out = 0
        for position, entry, item_id in self._name_entries(entries, extractor):
            if position > _MAX_ITEMS_OF_COURSE:
                message = f"the course lists more than {_MAX_ITEMS_OF_COURSE:,} items"
                raise Failure(Reason.UNSUPPORTED_COURSE, message)
            # What is left out follows the item before it, and has no number of its own.
            left_out += bool(entry.get("left_out"))
            index = position - left_out
            section = _fix_surrogates(entry.get("chapter") or "")
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            number = int_or_none(entry.get("chapter_number")) or number
            title = _fix_surrogates(entry.get("title") or entry.get("id") or f"item {index}")
            item = Item(
                item_id,
                index,
                title,
                section,
                number,
                _source_url(entry, self._order.course_url),
                widths=(width,),
                section_width=section_width,
                kind=entry.get("item_kind") or ItemKind.LECTURE,
                left_out=self._why_left_out(entry),
                **_facts(entry),
            )
            yield self._add(item, entry, playlists)

    def _why_left_out(self, entry: Entry) -> str:
        """Return why an entry is not downloaded; empty if it is."""
        beside = entry.get("item_kind", ItemKind.LECTURE) is not ItemKind.LECTURE
        unwanted = beside and not self._order.settings.attachments
        return "ENROLLGATE_ATTACHMENTS is off" if unwanted else str(entry.get("left_out") or "")

    def _add(self, item: Item, entry: Entry, playlists: tuple[str, ...]) -> Item:
        """Note the item's entry, and return the item, or the group that it is a part of.

        A lecture is a group if its attachments are listed, or if its own page may list companions.
        The address of a media file itself has none.
        """
        settings = self._order.settings
        known = entry.get("_type", "video") == "video" or entry.get("subtitles")
        extension = determine_ext(unsmuggle(str(entry.get("url") or ""))[0], "")
        may_list = (
            find_companions(entry, settings)
            if known
            else has_companions(settings) and extension not in KNOWN_EXTENSIONS
        )
        is_lecture = item.kind is ItemKind.LECTURE and not item.left_out
        is_group = bool(entry.get("attachments")) or (is_lecture and bool(may_list))
        self._listed[item.item_id] = _Listed(entry, playlists)
        if not is_group:
            return item
        group = replace(item, item_id=f"{item.item_id}{_GROUP}")
        self._listed[group.item_id] = self._listed[item.item_id]
        return group

    def _split(self, group: Item, fetcher: Fetcher) -> list[Item]:
        """Return the items of a group: first the attachments, next the companions and the video.

        Small files come first: their signed addresses expire while a video is downloaded.
        """
        item = replace(group, item_id=group.item_id.removesuffix(_GROUP))
        listed = self._listed[group.item_id]
        entry = dict(listed.entry)
        if attachments := entry.pop("attachments", None):
            # The lecture comes last: its page may be refused, the attachments are there anyway.
            return [
                *self._attach(item, attachments, listed.playlists),
                self._add(item, entry, listed.playlists),
            ]
        info = fetcher.extract(entry)
        if info.get("_type") in PLAYLIST_TYPES:
            return self._unfold(item, info)
        self._listed[item.item_id] = _Listed(info, listed.playlists)
        found = list[Item]()
        for companion in find_companions(info, self._order.settings):
            item_id = f"{item.item_id}/{companion.name}"
            self._listed[item_id] = _Listed(companion.entry, listed.playlists)
            found.append(replace(item, item_id=item_id, kind=companion.kind, label=companion.label))
        return [*found, replace(item, **_facts(info | entry))]

    def _attach(
        self, lecture: Item, attachments: list[Entry | None], playlists: tuple[str, ...]
    ) -> Iterator[Item]:
        """Yield the items of a lecture's attachments."""
        widths = (*lecture.widths, digits(len(attachments), least=1))
        named = self._name_entries(attachments, "UdemyAsset", f"{lecture.item_id}/")
        for number, entry, item_id in named:
            item = replace(
                lecture,
                item_id=item_id,
                title=_fix_surrogates(entry.get("title") or lecture.title),
                part=(*lecture.part, number),
                widths=widths,
                kind=entry.get("item_kind") or ItemKind.ATTACHMENT,
                left_out=self._why_left_out(entry),
                description="",
                duration=None,
            )
            yield self._add(item, entry, playlists)

    def _name_entries(
        self, entries: Iterable[Entry | None], extractor: str, prefix: str = ""
    ) -> Iterator[tuple[int, Entry, str]]:
        """Yield the entries with their positions and names, in their order."""
        listed = self._iter_entries(entries)
        if isinstance(entries, list | tuple):
            # All names are known before the first is chosen.
            known = [(*each, candidates(each[1], extractor, prefix)) for each in listed]
            names = choose_names([each for *_, each in known], self._names)
            for (index, entry, _), name in zip(known, names, strict=True):
                yield index, entry, name
            return
        for index, entry in listed:
            names = choose_names(iter([candidates(entry, extractor, prefix)]), self._names)
            yield index, entry, next(names)

    def _iter_entries(self, entries: Iterable[Entry | None]) -> Iterator[tuple[int, Entry]]:
        """Yield the entries with their positions, counted from 1, without those that are gone.

        Raises Failure if yt-dlp fails to list the next one (None: it is gone), or if the run must
        stop.
        """
        iterator, position = iter(entries), 0
        while True:
            if self._stop.is_set():
                raise Failure(Reason.STOPPED, "asked to stop; the next attempt lists it again")
            with errors_as_failures():
                try:
                    entry = next(iterator)
                except StopIteration:
                    return
            position += 1
            if entry is not None:
                yield position, entry

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
        remedy = "Write its URL to a row of its own, as a course."
        if self._items_of_playlists > _MAX_ITEMS_OF_PLAYLISTS:
            message = f"the course's playlists list more than {_MAX_ITEMS_OF_PLAYLISTS:,} items"
            raise Failure(Reason.UNSUPPORTED_COURSE, message, remedy=remedy)
        entries = list[Entry | None]()
        for number, entry in self._iter_entries(playlist.get("entries") or ()):
            if number > _MAX_NESTED_ITEMS:
                raise Failure(
                    Reason.UNSUPPORTED_COURSE,
                    f"this is a playlist of more than {_MAX_NESTED_ITEMS:,} items",
                    remedy=remedy,
                )
            entries += [None] * (number - 1 - len(entries)) + [entry]
        self._items_of_playlists += len(entries)
        extractor = str(playlist.get("extractor_key") or "Generic")
        widths = (*parent.widths, digits(len(entries), least=1))
        items = list[Item]()
        for number, entry, item_id in self._name_entries(entries, extractor, f"{parent.item_id}/"):
            item = replace(
                parent,
                item_id=item_id,
                title=_fix_surrogates(entry.get("title") or parent.title),
                part=(*parent.part, number),
                source_url=_source_url(entry, parent.source_url),
                widths=widths,
                **_facts(entry),
            )
            items.append(self._add(item, entry, (*outer, url)))
        if not items:
            message = "yt-dlp finds nothing to download for this item"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        single = replace(items[0], part=parent.part, widths=parent.widths)
        return items if len(items) > 1 else [single]


def _facts(entry: Entry) -> dict[str, Any]:
    """Return what an entry says of its content, as fields of an item."""
    duration = float_or_none(entry.get("duration"))
    is_finite = duration is not None and 0 < duration < _MAX_DURATION
    return {"description": _description(entry), "duration": duration if is_finite else None}


def _description(info: Entry) -> str:
    """Return the description as plain text. Many sites write HTML."""
    text = info.get("description")
    return _fix_surrogates(clean_html(text))[:_MAX_DESCRIPTION] if isinstance(text, str) else ""


def _write_text(item: Item, info: Entry, folder: Path) -> Fetched:
    """Write a text that an extractor returned. Raises Failure if it returned none."""
    text, extension = info.get("text"), safe_name(str(info.get("ext") or "txt"))
    if not isinstance(text, str):
        message = "the site says nothing of this item that can be stored"
        raise Failure(Reason.UNSUPPORTED_COURSE, message)
    if item.kind is ItemKind.ARTICLE:
        text = render_article(item.title, text)
    file = folder / f"text.{extension}"
    file.write_text(_fix_surrogates(text), encoding="utf-8", newline="")
    return Fetched(file)


def _source_url(entry: Entry, default: str) -> str:
    return _fix_surrogates(
        unsmuggle(str(entry.get("webpage_url") or entry.get("url") or default))[0]
    )


def _fix_surrogates(text: object) -> str:
    """Return text that can be stored.

    Some sites write an emoji as two halves (`&#55357;&#56832;`), and yt-dlp leaves them apart.
    """
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
