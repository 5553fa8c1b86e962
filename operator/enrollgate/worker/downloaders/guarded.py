"""Build YoutubeDL objects that use our network guard and our stream downloaders only.

yt-dlp can also start other programs (ffmpeg, rtmpdump, mplayer) that open connections of their
own. Formats that need one are refused. ffmpeg may join and repair files, but not fetch them.
"""

import functools
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Expected, Fetched
from enrollgate.worker.downloaders.cookie_jar import SharedCookieJar
from enrollgate.worker.downloaders.direct import DurableHttpFD
from enrollgate.worker.downloaders.extractors import add_extractors
from enrollgate.worker.downloaders.network_guard import GuardedRequestHandler
from enrollgate.worker.downloaders.pages import refuse_page
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.site_access import InspectedResponse, SiteAccess
from enrollgate.worker.downloaders.site_answers import explain_page
from enrollgate.worker.downloaders.streams import (
    SUBTITLES,
    DurableDashFD,
    DurableFragmentFD,
    DurableHlsFD,
)
from enrollgate.worker.downloaders.url_patterns import required_text
from enrollgate.worker.downloaders.yt_dlp_compat import (
    PLAYLIST_TYPES,
    DashSegmentsFD,
    FFmpegFD,
    FFmpegPostProcessor,
    FileDownloader,
    HlsFD,
    HttpFD,
    LazyLoadExtractor,
    Request,
    Response,
    YoutubeDL,
    download_with,
    gen_extractor_classes,
    get_suitable_downloader,
    replace_method,
    replace_request_handlers,
    request_handlers,
)
from enrollgate.worker.file_types import recognise_file
from enrollgate.worker.fragments import log_path
from enrollgate.worker.verification import verify

# yt-dlp's downloaders that use the request handler, and the class that we use for each.
_DOWNLOADERS = {HttpFD: DurableHttpFD, HlsFD: DurableHlsFD, DashSegmentsFD: DurableDashFD}


def _refuse_ffmpeg_download(*_: object, **__: object) -> bool:
    raise RequestRefused(
        Failure(
            Reason.UNSUPPORTED_COURSE, "this stream needs ffmpeg to fetch it, which is not allowed"
        )
    )


def _report_nothing(*_: object) -> None: ...


def _match_named_urls(extractor: Any, url: str) -> object:
    """Replace `_match_valid_url` of the extractors that are not loaded yet."""
    texts = vars(extractor).get("required_texts")
    if texts is None:
        patterns = extractor._VALID_URL or ()
        patterns = (patterns,) if isinstance(patterns, str) else patterns
        texts = extractor.required_texts = tuple(map(required_text, patterns))
    lowered = url.lower()
    if texts and not any(text in lowered for text in texts):
        return None
    return LazyLoadExtractor._match_valid_url.__wrapped__(extractor, url)


def _run_ffmpeg_on_media(
    postprocessor: Any,
    input_path_opts: list[tuple[str, list[str]]],
    output_path_opts: list[tuple[str, list[str]]],
    **options: Any,
) -> object:
    """Replace `FFmpegPostProcessor.real_run_ffmpeg`, which lets ffmpeg guess what its inputs are.

    A text could name other files, even those of another course, and ffmpeg would read them. So an
    input must be a verified container, and its format is fixed.
    """
    inputs = [
        (path, [*given, *_input_options(postprocessor, path)]) for path, given in input_path_opts
    ]
    run = FFmpegPostProcessor.real_run_ffmpeg.__wrapped__
    return run(postprocessor, inputs, output_path_opts, **options)


def _probe_media(postprocessor: Any, path: str, opts: list[str] | None = None) -> object:
    """Replace `FFmpegPostProcessor.get_metadata_object`, which does the same with ffprobe."""
    probe = FFmpegPostProcessor.get_metadata_object.__wrapped__
    return probe(postprocessor, path, [*(opts or ()), *_input_options(postprocessor, path)])


def _input_options(postprocessor: Any, path: str) -> list[str]:
    demuxer = postprocessor._downloader.verify_media(path)
    return ["-protocol_whitelist", "file,pipe", "-f", demuxer]


replace_method(FFmpegPostProcessor, "real_run_ffmpeg", _run_ffmpeg_on_media)
replace_method(FFmpegPostProcessor, "get_metadata_object", _probe_media)
replace_method(LazyLoadExtractor, "_match_valid_url", _match_named_urls)
# yt-dlp's HLS downloader creates an FFmpegFD by itself for some streams.
replace_method(FFmpegFD, "real_download", _refuse_ffmpeg_download)
# For each block it formats a line that `_SilentLogger` discards: a fifth of a download's CPU time.
replace_method(FileDownloader, "report_progress", _report_nothing)


# yt-dlp loads plugins of the machine when the first YoutubeDL is built, from PYTHONPATH and HOME
# (https://github.com/yt-dlp/yt-dlp#plugins). It reads configuration files as a command only.
os.environ["YTDLP_NO_PLUGINS"] = "1"

# Pages that lead on to the next page for one item.
_MAX_PAGES_IN_A_ROW = 10


class NestedPlaylist(Exception):
    """The entry to download is itself a playlist.

    yt-dlp would download all its entries, each over the file of the one before.
    """

    def __init__(self, playlist: dict[str, Any]) -> None:
        super().__init__()
        self.playlist = playlist


class _SilentLogger:
    """Discard yt-dlp's output: its errors reach us as exceptions."""

    def debug(self, message: str) -> None: ...
    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


class _GuardedYoutubeDL(YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """Download one entry at a time, through our request handler only."""

    site: SiteAccess
    # The page that was read last: it explains why nothing was found on it.
    last_page: InspectedResponse | None = None
    # Why a request that would enroll was not sent. Extractors may ignore that it was not.
    refused: Failure | None = None
    _pages_in_a_row = 0

    def __init__(self, options: dict[str, Any], stop: threading.Event) -> None:
        self.stop = stop
        # What is expected of the streams of the current entry, by the names of their files.
        self.playlists = dict[str, Expected]()
        # Those of the latest answer: they may say what its body is.
        self.latest_headers: Mapping[str, str] = {}
        self._verified = dict[tuple[str, int, int], str]()
        super().__init__(options)

    def add_default_info_extractors(self) -> None:
        """Add those that yt-dlp uses by default. It would match all names with patterns first."""
        for extractor in gen_extractor_classes():
            if extractor._ENABLED:
                self.add_info_extractor(extractor)

    def urlopen(self, req: Request | str) -> Response:
        """Send a request, when its host allows it. Raises RequestRefused if it does not."""
        request = Request(req) if isinstance(req, str) else req
        try:
            response = self.site.send(
                request, lambda: super(_GuardedYoutubeDL, self).urlopen(request)
            )
        except RequestRefused as error:
            if error.failure.reason is Reason.ACCESS_DENIED:
                self.refused = error.failure
            raise
        self.latest_headers = response.headers
        if isinstance(response, InspectedResponse):
            self.last_page = response
        return response

    def process_ie_result(
        self,
        ie_result: dict[str, Any],
        download: bool = True,
        extra_info: dict[str, Any] | None = None,
    ) -> object:
        """Process what an extractor found.

        Raises NestedPlaylist before anything of a playlist is downloaded, and RequestRefused if one
        page leads to the next without an end.
        """
        if download and ie_result.get("_type") in PLAYLIST_TYPES:
            raise NestedPlaylist(ie_result)
        if self._pages_in_a_row > _MAX_PAGES_IN_A_ROW:
            message = f"more than {_MAX_PAGES_IN_A_ROW} pages lead from one to the next"
            raise RequestRefused(Failure(Reason.UNSUPPORTED_COURSE, message))
        self._pages_in_a_row += 1
        try:
            return super().process_ie_result(ie_result, download, extra_info)
        finally:
            self._pages_in_a_row -= 1

    def dl(
        self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False
    ) -> object:
        """Download one format to the file `name`.

        Raises RequestRefused if only another program could fetch it, Failure if a page came.
        """
        # Extractors leave responses open after a look at the media, and the site would go on
        # sending them.
        is_partial = Path(f"{name}.part").exists()  # then another range of it is wanted
        close_connections(self, but=None if is_partial else info.get("url"))
        if not info.get("url"):
            return super().dl(name, info, subtitle, test)  # It reports what is missing.
        downloader_class = _DOWNLOADERS.get(get_suitable_downloader(info, self.params))
        if downloader_class is None:
            protocol = str(info.get("protocol"))[:20]
            message = f"this item uses {protocol}, which only another program could fetch"
            raise RequestRefused(Failure(Reason.UNSUPPORTED_COURSE, message))
        if test:
            return super().dl(name, info, subtitle, test)
        downloader = downloader_class(self, self.params)
        # The headers of a format are for its own site only, whatever hosts its playlist names.
        for handler in request_handlers(self):
            handler.media_url = str(info["url"])
        try:
            result = download_with(self, downloader, name, info, subtitle)
        finally:
            for handler in request_handlers(self):
                handler.media_url = None
        refuse_page(Path(name))
        # A stream of subtitles is no media. It is checked as text.
        is_media = not subtitle and info.get("ext") not in SUBTITLES
        if isinstance(downloader, DurableFragmentFD) and is_media:
            self.playlists[name] = _expect_stream(downloader)
            log = log_path(Path(name))
            self.verify_media(name, log)
            log.unlink(missing_ok=True)
        return result

    def verify_media(self, name: str, fragments: Path | None = None) -> str:
        """Check a downloaded file before ffmpeg reads it. Return the name of FFmpeg's demuxer.

        `fragments` is the log of a stream's fragments, before ffmpeg rewrites the stream.
        Raises Failure, after it removed the file: the next attempt starts over.
        """
        file = Path(name)
        state = file.stat()
        version = (name, state.st_size, state.st_mtime_ns)
        if version not in self._verified:
            expected = self.playlists.get(name, Expected(is_media=True))
            try:
                verify(Fetched(file, expected=expected), self.stop, fragments)
            except Failure as failure:
                if failure.reason is not Reason.STOPPED:
                    file.unlink()
                raise
            self._verified[version] = recognise_file(file).demuxer
        return self._verified[version]


def _expect_stream(downloader: DurableFragmentFD) -> Expected:
    """Return what the playlist says of a stream's duration."""
    lengths = [each.seconds for each in downloader.listed]
    # Old playlists round each segment to whole seconds; a tenth is tolerated anyway. Those of DASH
    # may list the last fragment with the length of the others.
    slack = 2.0 if isinstance(downloader, DurableHlsFD) else max(lengths, default=0.0) + 2.0
    return Expected(is_media=True, seconds=sum(lengths) or None, slack=slack)


def close_connections(ydl: YoutubeDL, *, but: str | None = None) -> None:
    """Close all responses that a guarded YoutubeDL left open, but for that of one address."""
    for handler in request_handlers(ydl):
        handler.close_connections(but=but)


def explain_last_page(ydl: YoutubeDL) -> Failure | None:
    """Return why yt-dlp found nothing, by a refused request or by the page that it read last.

    None: neither says it.
    """
    if ydl.refused is not None:
        refused: Failure = ydl.refused
        return refused
    page = ydl.last_page.answer if ydl.last_page is not None else None
    return explain_page(page) if page is not None else None


def open_youtube_dl(
    options: dict[str, Any],
    allowed_hosts: tuple[str, ...],
    stop: threading.Event,
    cookies: SharedCookieJar | None = None,
    site: SiteAccess | None = None,
) -> YoutubeDL:
    """Return a YoutubeDL with a guarded network, which sends and reads nothing more after `stop`.

    `cookies` is the jar of another YoutubeDL that is to be shared. Without it the object has its
    own, read from the option `cookiefile`. `site` is shared by all objects of a run.
    """
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        # By default yt-dlp uses certifi's authorities and ignores those of the administrator.
        options = {**options, "compat_opts": {"no-certifi"}}
    ydl = _GuardedYoutubeDL({**options, "logger": _SilentLogger()}, stop)
    site = site or SiteAccess(max_wait=0, stop=stop, monotonic=time.monotonic)
    ydl.site = site
    ydl.cookiejar = SharedCookieJar(ydl.cookiejar) if cookies is None else cookies
    handler = functools.partial(
        GuardedRequestHandler,
        allowed_hosts=allowed_hosts,
        limits=site.limits,
        tls_contexts=site.tls_contexts,
    )
    replace_request_handlers(ydl, [handler])
    add_extractors(ydl)
    return ydl
