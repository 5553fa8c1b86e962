"""Extractors of our own: they extend yt-dlp's by what belongs to a course beside its videos.

`UdemyCourseIE` also lists the articles, files, links and quizzes of a curriculum, and
`UdemyAssetIE` reads one of the first three. They only read: a request that would enroll is never
made. `GenericIE` also lists the transcripts of a feed.

Udemy documents its API at https://www.udemy.com/developers/instructor/models/ (lectures, assets).
The site's own pages use the same objects for students. Each field may be missing.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree

from yt_dlp.utils import ExtractorError, clean_html, float_or_none, int_or_none, smuggle_url

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import ItemKind
from enrollgate.worker.downloaders.companions import TEXT
from enrollgate.worker.downloaders.entries import Entry
from enrollgate.worker.downloaders.yt_dlp_compat import (
    InfoExtractor,
    YoutubeDL,
    YtDlpGenericIE,
    YtDlpUdemyCourseIE,
    YtDlpUdemyIE,
)

_API = "https://www.udemy.com/api-2.0"
# What yt-dlp's extractor asks for, and in addition descriptions, assets and quizzes.
_CURRICULUM = {
    "fields[chapter]": "title,object_index",
    "fields[lecture]": "title,description,object_index,is_published,asset,supplementary_assets",
    "fields[quiz]": "title,object_index,is_published,type",
    "fields[practice]": "title,object_index,is_published",
    "fields[asset]": "title,filename,asset_type,time_estimation,external_url",
    "page_size": "1000",
}
# Pages of one curriculum, at most.
_MAX_PAGES = 50
# Items of a feed that yt-dlp reads between two looks at whether the run must stop.
_ITEMS_AT_ONCE = 500
_VIDEO_TYPES = ("video", "videomashup", "")
# The parts of a page that only an account without the course gets.
_OFFER = re.compile(
    r"""href=["'](?:https?://[^/"']*)?/(?:course/subscribe|(?:payment|cart)/checkout)/"""
)
# The namespace of https://podcasting2.org/docs/podcast-namespace/tags/transcript.
_PODCAST = "{https://podcastindex.org/namespace/1.0}"
_TRANSCRIPTS = {
    "text/vtt": "vtt",
    "application/srt": "srt",
    "application/x-subrip": "srt",
    "text/srt": "srt",
}


def add_extractors(ydl: YoutubeDL) -> None:
    """Let a YoutubeDL use our extractors in place of those of the same name."""
    for extractor in (UdemyIE, UdemyCourseIE, UdemyAssetIE, GenericIE):
        ydl.add_info_extractor(extractor())


class _NeverEnrolls(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """What replaces the method that opens Udemy's subscribe page."""

    def _enroll_course(self, _base_url: str, webpage: str, course_id: str) -> None:
        """Raise Failure (AccessDenied) if the page offers the course: it is not the account's."""
        if _OFFER.search(webpage):
            message = f"the account is not enrolled in course {course_id}"
            raise Failure(Reason.ACCESS_DENIED, message)


class UdemyIE(_NeverEnrolls, YtDlpUdemyIE):  # type: ignore[misc]  # yt-dlp has no types
    """One lecture. Today's answers name media and languages in other fields than yt-dlp reads."""

    def _download_lecture(self, course_id: str, lecture_id: str) -> Entry:
        fields = "asset_type,stream_url,thumbnail_url,download_urls,stream_urls,media_sources"
        lecture: Entry = self._download_json(
            f"{_API}/users/me/subscribed-courses/{course_id}/lectures/{lecture_id}",
            lecture_id,
            "Downloading lecture JSON",
            query={
                "fields[lecture]": "title,description,view_html,asset",
                "fields[asset]": f"{fields},captions,data,course_is_drmed,time_estimation",
            },
        )
        asset = lecture.get("asset")
        if not isinstance(asset, dict):
            return lecture
        sources = asset.get("media_sources")
        if isinstance(sources, list) and not asset.get("stream_urls"):
            # yt-dlp would take a list of DASH segments for the video. With DRM there is no other.
            usable = [
                each
                for each in sources
                if isinstance(each, dict)
                and each.get("type") != "application/dash+xml"
                and ".mpd" not in str(each.get("src"))
            ]
            asset["stream_urls"] = {} if asset.get("course_is_drmed") else {"Video": usable}
        if not isinstance(asset.get("data"), dict):
            asset["data"] = {}
        asset["data"].setdefault("duration", asset.get("time_estimation"))
        for caption in asset.get("captions") or ():
            if isinstance(caption, dict) and caption.get("locale_id"):
                caption.setdefault("locale", {"locale": caption["locale_id"]})
        return lecture


class UdemyCourseIE(_NeverEnrolls, YtDlpUdemyCourseIE):  # type: ignore[misc]  # see above
    """A whole curriculum, in its order.

    An entry may carry `attachments`, a list of entries that belong to it, `item_kind`, and
    `left_out`: why nothing can be downloaded.
    """

    def _real_extract(self, url: str) -> Entry:
        path = self._match_id(url)
        webpage = self._download_webpage(url, path)
        course_id, title = self._extract_course_info(webpage, path)
        self._enroll_course(url, webpage, course_id)
        course = self._download_json(
            f"{_API}/courses/{course_id}/",
            course_id,
            "Downloading course JSON",
            query={"fields[course]": "title,headline,description"},
            fatal=False,
        )
        course = course if isinstance(course, dict) else {}
        result: Entry = self.playlist_result(
            list(self._iter_entries(course_id, path)),
            course_id,
            course.get("title") or title,
            clean_html(course.get("description") or course.get("headline")),
        )
        return result

    def _extract_course_info(self, webpage: str, video_id: str) -> tuple[str, str | None]:
        """Return the course's id and title. Today's pages also give the id in other words."""
        found = re.search(r'data-clp-course-id=["\'](\d+)', webpage)
        if found:
            return found[1], None
        course: tuple[str, str | None] = super()._extract_course_info(webpage, video_id)
        return course

    def _iter_entries(self, course_id: str, path: str) -> Iterator[Entry]:
        chapter: Entry = {}
        for element in self._iter_curriculum(course_id):
            kind = element.get("_class")
            if element.get("is_published") is False:
                continue
            if kind == "chapter":
                number, name = int_or_none(element.get("object_index")), element.get("title")
                chapter = {"chapter": name, "chapter_number": number}
                chapter = {key: value for key, value in chapter.items() if value}
            elif kind == "lecture" and element.get("id"):
                yield _lecture(element, course_id, path) | chapter
            elif element.get("id"):
                name = str(element.get("type") or kind).replace("-", " ")
                yield chapter | {
                    "_type": "url",
                    "id": f"{kind}-{element['id']}",
                    "url": f"https://www.udemy.com/{path}/learn/{kind}/{element['id']}",
                    "title": element.get("title"),
                    "left_out": f"a {name[:40]}, which works only on the site",
                }

    def _iter_curriculum(self, course_id: str) -> Iterator[Entry]:
        """Yield chapters, lectures and the rest, page after page."""
        url = f"{_API}/courses/{course_id}/cached-subscriber-curriculum-items"
        for number in range(1, 1 + _MAX_PAGES):
            query = _CURRICULUM if number == 1 else {**_CURRICULUM, "page": str(number)}
            page = self._download_json(
                url, course_id, f"Downloading course curriculum, page {number}", query=query
            )
            yield from (each for each in page.get("results") or () if isinstance(each, dict))
            if not page.get("next"):
                return
        message = f"the course's curriculum has more than {_MAX_PAGES} pages"
        raise Failure(Reason.UNSUPPORTED_COURSE, message)


class UdemyAssetIE(_NeverEnrolls, YtDlpUdemyIE):  # type: ignore[misc]  # yt-dlp has no types
    """A file, a link or an article, by its address in the API: an asset, or a lecture with one."""

    IE_NAME = "udemy:asset"
    _VALID_URL = (
        r"https://www\.udemy\.com/api-2\.0/(?:[^?#]+/)?"
        r"(?:supplementary-assets|assets|lectures)/(?P<id>\d+)/?$"
    )

    def _real_extract(self, url: str) -> Entry:
        asset_id = self._match_id(url)
        fields = "title,filename,asset_type,status,body,external_url,download_urls,stream_urls"
        query = {"fields[lecture]": "asset", "fields[asset]": f"{fields},media_sources"}
        asset = self._download_json(url, asset_id, "Downloading asset JSON", query=query)
        asset = asset["asset"] if isinstance(asset.get("asset"), dict) else asset
        name = str(asset.get("filename") or asset.get("title") or asset_id)
        if asset.get("body"):
            return {"_type": TEXT, "id": asset_id, "text": str(asset["body"]), "ext": "html"}
        if asset.get("external_url"):
            link = _link(asset_id, str(asset["external_url"]))
            if "left_out" in link:
                raise ExtractorError(f"Asset {asset_id} is {link['left_out']}", expected=True)
            return link
        for url_kind in ("download_urls", "stream_urls"):
            urls = asset.get(url_kind)
            for sources in urls.values() if isinstance(urls, dict) else ():
                for source in sources if isinstance(sources, list) else ():
                    address = source.get("file") or source.get("src")
                    if address:
                        # yt-dlp refuses most extensions of files that are no media.
                        file = {"url": address, "ext": "unknown_video", "file_name": name}
                        return {"id": asset_id, "title": name} | file
        raise ExtractorError(f"Asset {asset_id} has no file", expected=True)


class GenericIE(YtDlpGenericIE):  # type: ignore[misc]  # yt-dlp has no types
    """Any site. The transcripts of a feed become the subtitles of its items.

    An entry has `is_media` if the feed says that its address is that of a video or a sound.
    """

    def _extract_rss(self, url: str, video_id: str, doc: ElementTree.Element) -> Entry:
        """Return the feed as a playlist.

        yt-dlp reads a part of it at a time: a long feed takes it longer than a worker may take to
        stop. Raises Failure (Stopped).
        """
        items = doc.findall("./channel/item")
        feed: Entry = super()._extract_rss(url, video_id, _without_items(doc))
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            if self._downloader.stop.is_set():
                raise Failure(Reason.STOPPED, "asked to stop; the next attempt lists the course")
            part = _without_items(doc)
            part[0].extend(items[start : start + _ITEMS_AT_ONCE])
            feed["entries"] += self._extract_items(url, video_id, part)
        return feed

    def _extract_items(self, url: str, video_id: str, doc: ElementTree.Element) -> list[Entry]:
        entries: list[Entry] = super()._extract_rss(url, video_id, doc)["entries"]
        listed = [
            item
            for item in doc.findall("./channel/item")
            if any(each.get("url") for each in item.findall("./enclosure")) or item.findtext("link")
        ]
        if len(entries) == len(listed):
            for entry, item in zip(entries, listed, strict=True):
                types = [each.get("type", "") for each in item.findall("./enclosure")]
                entry["is_media"] = any(each.startswith(("video/", "audio/")) for each in types)
                subtitles = dict[str, list[Entry]]()
                for each in item.findall(f"{_PODCAST}transcript"):
                    extension = _TRANSCRIPTS.get(each.get("type", "").lower())
                    if each.get("url") and extension:
                        track = {"url": each.get("url"), "ext": extension}
                        subtitles.setdefault(each.get("language") or "und", []).append(track)
                if subtitles:
                    entry["subtitles"] = subtitles
        return entries


def _without_items(feed: ElementTree.Element) -> ElementTree.Element:
    """Return an RSS feed with the title and the description of another, and no items."""
    rss = ElementTree.Element("rss")
    channel = ElementTree.SubElement(rss, "channel")
    channel.extend(feed.findall("./channel/title") + feed.findall("./channel/description"))
    return rss


def _lecture(element: Entry, course_id: str, path: str) -> Entry:
    """Return the entry of a lecture of the curriculum, with its attachments."""
    lecture_id, asset = element["id"], element.get("asset")
    asset = asset if isinstance(asset, dict) else {}
    entry: Entry = {
        "id": str(lecture_id),
        "title": element.get("title"),
        "description": clean_html(element.get("description")),
        "duration": float_or_none(asset.get("time_estimation")),
        "webpage_url": f"https://www.udemy.com/{path}/learn/lecture/{lecture_id}",
    }
    asset_type = str(asset.get("asset_type") or asset.get("assetType") or "").lower()
    if asset_type in _VIDEO_TYPES or not asset.get("id"):
        address = f"https://www.udemy.com/{path}/learn/v4/t/lecture/{lecture_id}"
        entry |= {
            "_type": "url_transparent",
            "url": smuggle_url(address, {"course_id": course_id}),
            "ie_key": "Udemy",
        }
    elif asset_type == "article":
        url = f"{_API}/assets/{asset['id']}/"
        entry |= {"_type": "url", "url": url, "ie_key": "UdemyAsset"}
        entry |= {"item_kind": ItemKind.ARTICLE, "duration": None}
    else:
        url = f"{_API}/users/me/subscribed-courses/{course_id}/lectures/{lecture_id}"
        entry |= {"_type": "url", "url": url, "ie_key": "UdemyAsset"}
        entry |= {"item_kind": ItemKind.ATTACHMENT, "duration": None}
    supplements = element.get("supplementary_assets")
    attachments = [
        _attachment(each, course_id, lecture_id, entry["webpage_url"])
        for each in (supplements if isinstance(supplements, list) else ())
        if isinstance(each, dict) and each.get("id")
    ]
    return {key: value for key, value in entry.items() if value} | {"attachments": attachments}


def _attachment(asset: Entry, course_id: str, lecture_id: object, page: str) -> Entry:
    """Return the entry of a file or link that belongs to a lecture."""
    asset_id = str(asset["id"])
    title = str(asset.get("title") or asset.get("filename") or "attachment")
    # Most titles are the file's name, whose extension is added again.
    suffix = PurePosixPath(str(asset.get("filename") or "")).suffix
    title = title.removesuffix(suffix) or title
    base = {"title": title, "webpage_url": page, "item_kind": ItemKind.ATTACHMENT}
    address = asset.get("external_url")
    if address or str(asset.get("asset_type")).lower() == "externallink":
        base["item_kind"] = ItemKind.LINK
    if address:
        return base | _link(asset_id, str(address)) | {"extractor_key": "UdemyAsset"}
    lecture = f"{_API}/users/me/subscribed-courses/{course_id}/lectures/{lecture_id}"
    url = f"{lecture}/supplementary-assets/{asset_id}"
    return base | {"_type": "url", "id": asset_id, "url": url, "ie_key": "UdemyAsset"}


def _link(asset_id: str, address: str) -> Entry:
    """Return an entry whose text is an Internet shortcut, which all desktops open.

    Only web addresses: a shortcut to a network share would send it the reader's password.
    """
    target = "".join(each for each in address if each.isprintable()).strip()
    if not re.match(r"https?://", target, re.IGNORECASE):
        return {"_type": "url", "id": asset_id, "url": "", "left_out": "a link to no web address"}
    text = f"[InternetShortcut]\r\nURL={target}\r\n"
    return {"_type": TEXT, "id": asset_id, "text": text, "ext": "url"}
