"""Download single entries of a course with one YoutubeDL, for one thread.

What goes in: an entry as yt-dlp listed it, and a folder. What comes out: one complete file in it.
The folder may hold a partial file of an earlier attempt, which is continued if it is of the same
rendition. File names never contain anything that the site chose.
"""

import contextlib
import hashlib
import threading
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from yt_dlp.postprocessor.common import PostProcessor
from yt_dlp.utils import KNOWN_EXTENSIONS, DownloadCancelled, determine_ext, float_or_none

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Delivered, Expected, Fetched, OnFetched, Validators
from enrollgate.worker.downloaders.cookie_jar import SharedCookieJar
from enrollgate.worker.downloaders.direct import read_note
from enrollgate.worker.downloaders.entries import Entry, unsmuggle
from enrollgate.worker.downloaders.guarded import (
    close_connections,
    explain_last_page,
    open_youtube_dl,
)
from enrollgate.worker.downloaders.pages import is_page, refuse_answer
from enrollgate.worker.downloaders.site_access import InspectedResponse, SiteAccess
from enrollgate.worker.downloaders.versions import is_current, read_version
from enrollgate.worker.downloaders.yt_dlp_compat import HTTPError, Request, RequestError
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures
from enrollgate.worker.file_types import (
    SUBTITLES,
    Family,
    announced_extension,
    family_by_extension,
)
from enrollgate.worker.identity import is_signed
from enrollgate.worker.names import safe_name
from enrollgate.worker.scratch import CHUNK_SIZE

# Redirects from one extractor to another that are followed.
MAX_REDIRECTS = 6
# The names of all files in an item's folder start with it.
_PREFIX = "media-"
# In the names of a stream's fragments that are not yet part of its file.
_FRAGMENT = ".part-Frag"


def build_options(cookies: Path | None, quality: str = "best") -> dict[str, Any]:
    """Return the options of a YoutubeDL. `cookies` is the file that it reads and writes.

    `quality` is the setting. yt-dlp sorts by it, so that a lecture in another quality is not lost
    (https://github.com/yt-dlp/yt-dlp#sorting-formats).
    """
    selection: dict[str, Any] = {}
    if quality == "audio":
        selection = {"format": "bestaudio/best/bestvideo*"}
    elif quality != "best":
        selection = {"format_sort": [f"res:{quality}"]}
    return selection | {
        "outtmpl": {"default": "media.%(ext)s"},
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": "never",
        "cachedir": False,
        # A JavaScript runtime is a program with a network of its own.
        "js_runtimes": {},
        # Never pretend to be in another country.
        "geo_bypass": False,
        "cookiefile": str(cookies) if cookies else None,
        # By default yt-dlp skips a failed HLS fragment silently.
        "skip_unavailable_fragments": False,
        "allow_unplayable_formats": False,
        "hls_prefer_native": True,
        # Also repair a file that an earlier attempt completed, if it died before ffmpeg ran.
        "fixup": "force",
        "continuedl": True,
        "noplaylist": False,
        "ignoreerrors": False,
        "writethumbnail": False,
        "retries": 2,
        "fragment_retries": 3,
        "extractor_retries": 1,
        "socket_timeout": 30,
        "buffersize": CHUNK_SIZE,
        # Otherwise yt-dlp reads up to 4 MiB before it calls the progress hook.
        "noresizebuffer": True,
    }


class _NameByRendition(PostProcessor):  # type: ignore[misc]  # yt-dlp has no types
    """Put the chosen rendition into the file's name, so that only the same one is continued.

    Partial files of other renditions are removed: they take room and are never continued. So is
    the beginning of a login page.
    """

    folder = Path()
    # What the extractor took for the item's extension, without the dot.
    extension = ""
    url = ""

    def run(self, info: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Set `info["rendition"]`, after yt-dlp chose formats and before it names files."""
        chosen = info.get("requested_formats") or [info]
        text = "\n".join(
            f"{each.get('format_id')} {urlsplit(str(each.get('url'))).path}" for each in chosen
        )
        self.url = str(chosen[0].get("url") or "")
        self.extension = str(info.get("ext") or "unknown_video").lower()
        family = family_by_extension(f".{self.extension}")
        if family is Family.UNKNOWN:
            self.extension = "unknown_video"  # such as `php`
        if family not in (Family.MEDIA, Family.IMAGE) and f".{self.extension}" not in SUBTITLES:
            # yt-dlp writes only files of these kinds. Their content says what they are.
            info["ext"] = "unknown_video"
        info["rendition"] = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
        for path in self.folder.iterdir():
            if not path.name.startswith(f"{_PREFIX}{info['rendition']}.") or is_page(path):
                path.unlink()
        return [], info


class Fetcher:
    """Download entries, one after the other. A YoutubeDL must stay in one thread."""

    def __init__(
        self,
        cookies: SharedCookieJar,
        allowed_hosts: tuple[str, ...],
        site: SiteAccess,
        stop: threading.Event,
        quality: str = "best",
    ) -> None:
        """`cookies` are those of the listing: the course's page may set what its media need."""
        self._stop = stop
        self._naming = _NameByRendition()
        self._folder = Path()
        self._may_ask = True
        self._on_bytes: OnFetched | None = None
        # Bytes of each file of the entry: picture and sound may be separate files.
        self._received = dict[str, int]()
        # What yt-dlp reported last (status, file, fragment), and the bytes on disk by then.
        self._step: tuple[object, ...] = ()
        self._used = 0
        options = build_options(None, quality) | {
            "progress_hooks": [self._report_download],
            "postprocessor_hooks": [self._report_postprocessing],
        }
        with errors_as_failures():
            self._ydl = open_youtube_dl(options, allowed_hosts, stop, cookies, site)
        self._ydl.add_post_processor(self._naming, when="video")

    def extract(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return what the extractors say of an entry, as they say it. Nothing is downloaded.

        Redirects between extractors are followed. What a list says of an entry wins, as in yt-dlp.
        Raises Failure.
        """
        info: dict[str, Any] | None = entry
        self._ydl.last_page = self._ydl.refused = None
        try:
            for _ in range(MAX_REDIRECTS):
                if not info or info.get("_type", "video") not in ("url", "url_transparent"):
                    break
                outer, address = info, info["url"]
                with errors_as_failures():
                    info = self._ydl.extract_info(
                        address, ie_key=outer.get("ie_key"), download=False, process=False
                    )
                if info and outer["_type"] == "url_transparent":
                    own = ("_type", "url", "ie_key", "id", "extractor", "extractor_key")
                    info |= {
                        key: value
                        for key, value in outer.items()
                        if value is not None and key not in own
                    }
        except Failure as failure:
            self._raise_if_page_explains(failure, entry)
            raise
        finally:
            close_connections(self._ydl)
        if not info:
            message = "yt-dlp finds nothing to download for this item"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        return info

    def fetch(
        self, entry: dict[str, Any], index: int, folder: Path, on_bytes: OnFetched
    ) -> Fetched:
        """Download the entry into the folder and return the complete file.

        Raises Failure, and NestedPlaylist if the entry turns out to be a playlist.
        """
        self._on_bytes = on_bytes
        self._ydl.last_page = self._ydl.refused = None
        self._folder = self._naming.folder = folder
        self._received.clear()
        self._step = ()
        self._ydl.playlists.clear()
        name = f"{str(folder).replace('%', '%%')}/{_PREFIX}%(rendition)s.%(ext)s"
        self._ydl.params["outtmpl"]["default"] = name
        is_video = entry.get("_type", "video") == "video"
        extra = {} if is_video else {"playlist_index": index}
        try:
            with errors_as_failures():
                result = self._ydl.process_ie_result(dict(entry), download=True, extra_info=extra)
        except Failure as failure:
            media = [entry, *(entry.get("formats") or ())] if is_video else []
            was_signed = any(is_signed(str(each.get("url") or "")) for each in media)
            if failure.reason is Reason.ACCESS_DENIED and was_signed:
                # The site signed the URL when it listed the course. The next attempt gets a new
                # signature, so the failure is one that a retry may fix.
                message = "its signed address has expired"
                raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from failure
            self._raise_if_page_explains(failure, entry)
            raise
        finally:
            close_connections(self._ydl)
        downloads = (result or {}).get("requested_downloads", ())
        paths = [Path(each["filepath"]) for each in downloads if "filepath" in each]
        files = [path for path in paths if path.is_file()]
        if len(files) != 1:
            message = f"yt-dlp gave {len(files)} files for this item, not one"
            raise Failure(Reason.UNSUPPORTED_COURSE, message)
        file = files[0]
        version = read_note(file) if is_video or (result or {}).get("direct") else None
        extension = PurePosixPath(str((result or {}).get("file_name") or "")).suffix
        if extension.isascii() and len(extension) > 1:
            # yt-dlp names only media. What the site's name says is checked like any other.
            file = file.rename(file.with_name(f"{file.stem}.{safe_name(extension[1:], 16)}"))
        expected = self._expect(downloads[0], extension)
        refuse_answer(file, expected.extension, self._naming.url)
        size = file.stat().st_size
        on_bytes(size, size)
        # Only such an entry's own URL can be asked again for the same file.
        validators = version.validators if version else Validators()
        return Fetched(file, validators, expected)

    def _raise_if_page_explains(self, failure: Failure, entry: Entry) -> None:
        """Raise the Failure that explains why yt-dlp found nothing for an entry.

        Where media was listed, any page is the site's failure. Else only a maintenance page is.
        """
        if failure.reason not in (Reason.UNSUPPORTED_COURSE, Reason.COURSE_NOT_FOUND):
            return
        if self._ydl.refused is not None:
            raise self._ydl.refused
        if failure.reason is Reason.COURSE_NOT_FOUND or self._ydl.last_page is None:
            return
        found = explain_last_page(self._ydl)
        extension = determine_ext(unsmuggle(str(entry.get("url") or ""))[0], "")
        if extension in KNOWN_EXTENSIONS or entry.get("is_media"):
            message = "the site sent a web page instead of the media"
            raise found or Failure(Reason.SITE_ERROR, message)
        if found and found.reason is Reason.SITE_ERROR:
            raise found

    def is_current(self, entry: Entry, delivered: Delivered) -> bool:
        """Ask the site, without a download, whether it still has the file that was delivered.

        If the site says nothing about it, the item's id decides. Raises Failure (Stopped).
        """
        if self._stop.is_set():
            raise Failure(Reason.STOPPED, "asked to stop; the next attempt checks this item")
        if not self._may_ask or delivered.validators == Validators():
            return True
        answered = False
        # The URLs whose answer is the item's file, with the headers that they need.
        urls = [(unsmuggle(str(entry.get("url") or ""))[0], dict[str, str]())]
        if entry.get("_type", "video") == "video":
            urls = [
                (str(each["url"]), dict(each.get("http_headers") or {}))
                for each in reversed(entry.get("formats") or [entry])
                if each.get("url") and not each.get("manifest_url") and not each.get("fragments")
            ]
        for url, headers in urls:
            # Some servers refuse HEAD, or answer it with other headers.
            for method, extra in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
                sent = {"Accept-Encoding": "identity", **headers, **extra}
                try:
                    with contextlib.closing(
                        self._ydl.urlopen(Request(url, headers=sent, method=method))
                    ) as response:
                        now = read_version(response.headers).validators
                except RequestError as error:
                    if isinstance(error, HTTPError) and error.status == 429:
                        self._may_ask = False  # leave the site in peace
                        return True
                    continue
                answered = True
                if is_current(delivered.validators, now):
                    return True
        return not answered

    def check(self, url: str) -> None:
        """Request a page. Raises Failure unless the site still gives it to the account."""
        with errors_as_failures(), self._ydl.urlopen(url) as response:
            if isinstance(response, InspectedResponse):
                response.read()

    def _expect(self, info: dict[str, Any], extension: str) -> Expected:
        """Return what the file must be, as far as the site, its URL and its listing say.

        `extension` is that of the file's name in the listing, empty if it has none.
        """
        has_codecs = any(info.get(name) not in (None, "none") for name in ("vcodec", "acodec"))
        is_media = has_codecs or bool(info.get("requested_formats") or self._ydl.playlists)
        streams = self._ydl.playlists.values()
        longest = max(streams, key=lambda each: each.seconds or 0.0, default=Expected())
        if not extension and not is_media:
            extension = announced_extension(self._ydl.latest_headers, self._naming.url)
        if not extension and self._naming.extension != "unknown_video":
            extension = f".{self._naming.extension}"
        seconds = float_or_none(info.get("duration"))
        if seconds is None:
            return replace(longest, extension=extension, is_media=is_media)
        return Expected(extension, is_media, seconds)

    def close(self) -> None:
        """Close yt-dlp's connections."""
        close_connections(self._ydl)
        with errors_as_failures():
            self._ydl.close()

    def _report_download(self, state: dict[str, Any]) -> None:
        """Take a progress report of yt-dlp. Raises DownloadCancelled if the run must stop."""
        if self._stop.is_set():
            raise DownloadCancelled("asked to stop")
        name, fragment = str(state.get("filename")), state.get("fragment_index")
        received = int(state.get("downloaded_bytes") or 0)
        arrived = received - self._received.get(name, 0)
        self._received[name] = received
        total = state.get("total_bytes") or state.get("total_bytes_estimate")
        step = (state["status"], name, fragment)
        if step == self._step and arrived >= 0:
            # Only this one file grows, so the folder need not be listed for each block.
            self._used += arrived * (1 if fragment is None else 2)
        else:
            self._step, self._used = step, self._scratch_size()
        expected = None if total is None else self._used - received + int(total)
        self._send_bytes(self._used, expected)

    def _report_postprocessing(self, state: dict[str, Any]) -> None:
        """Reserve room: ffmpeg writes the joined or repaired file beside the downloaded ones."""
        started = state.get("status") == "started"
        moves_only = state.get("postprocessor") == "MoveFilesAfterDownload"
        if started and not moves_only and self._received:
            size = 2 * self._scratch_size()
            self._send_bytes(size, size)

    def _send_bytes(self, used: int, expected: int | None) -> None:
        if self._on_bytes is not None:
            self._on_bytes(used, expected, sum(self._received.values()))

    def _scratch_size(self) -> int:
        """Return the bytes that the item takes on disk, or is about to take.

        While a fragment is appended, its bytes are on the disk twice.
        """
        sizes = [(path.name, path.stat().st_size) for path in self._folder.iterdir()]
        return sum(size * (2 if _FRAGMENT in name else 1) for name, size in sizes)
