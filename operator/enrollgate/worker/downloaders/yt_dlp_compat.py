"""Every part of yt-dlp that we use and that yt-dlp does not promise to keep, in one place.

yt-dlp documents how to embed `YoutubeDL`: `extract_info`, options, hooks and postprocessors. The
rest is internal and may change in any release. Other modules of this package import internals
from here only. `SIGNATURES` and `ATTRIBUTES` record what they look like today, and
tests/unit/worker/test_yt_dlp_compat.py compares them with the installed release. After an upgrade
of yt-dlp that test names what was removed or changed: adapt our code first, then the record.
"""

import functools
import http.client
import inspect
import socket
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.cookies import CookieLoadError, YoutubeDLCookieJar
from yt_dlp.downloader import FileDownloader, get_suitable_downloader
from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.external import FFmpegFD
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.hls import HlsFD
from yt_dlp.downloader.http import HttpFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.extractor.generic import GenericIE as YtDlpGenericIE
from yt_dlp.extractor.lazy_extractors import LazyLoadExtractor
from yt_dlp.extractor.udemy import UdemyCourseIE as YtDlpUdemyCourseIE
from yt_dlp.extractor.udemy import UdemyIE as YtDlpUdemyIE
from yt_dlp.networking._helper import _socket_connect, create_connection
from yt_dlp.networking._urllib import (
    HTTPHandler,
    ProxyHandler,
    RedirectHandler,
    UrllibResponseAdapter,
    UrllibRH,
)
from yt_dlp.networking.common import Request, RequestHandler, Response
from yt_dlp.networking.exceptions import (
    CertificateVerifyError,
    HTTPError,
    IncompleteRead,
    RequestError,
    TransportError,
)
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import RetryManager
from yt_dlp.utils.networking import HTTPHeaderDict

__all__ = [
    "ATTRIBUTES",
    "PLAYLIST_TYPES",
    "SIGNATURES",
    "CertificateVerifyError",
    "CookieLoadError",
    "DashSegmentsFD",
    "FFmpegFD",
    "FFmpegPostProcessor",
    "FileDownloader",
    "FragmentFD",
    "HTTPError",
    "HTTPHandler",
    "HTTPHeaderDict",
    "HlsFD",
    "HttpFD",
    "IncompleteRead",
    "InfoExtractor",
    "LazyLoadExtractor",
    "ProxyHandler",
    "RedirectHandler",
    "Request",
    "RequestError",
    "RequestHandler",
    "Response",
    "RetryManager",
    "TransportError",
    "UrllibRH",
    "UrllibResponseAdapter",
    "YoutubeDL",
    "YoutubeDLCookieJar",
    "YtDlpGenericIE",
    "YtDlpUdemyCourseIE",
    "YtDlpUdemyIE",
    "build_connection_class",
    "connect_checked",
    "download_with",
    "gen_extractor_classes",
    "get_suitable_downloader",
    "replace_method",
    "replace_request_handlers",
    "request_handlers",
]

# The types of an extractor's result that consists of other results.
PLAYLIST_TYPES = ("playlist", "multi_video")

# Import paths and signatures. A parameter with a default ends with `=`; annotations are left out.
SIGNATURES: dict[str, str] = {
    "yt_dlp:YoutubeDL.add_default_info_extractors": "(self)",
    "yt_dlp:YoutubeDL._calc_headers": "(self, info_dict, load_cookies=)",
    "yt_dlp:YoutubeDL._copy_infodict": "(info_dict)",
    "yt_dlp:YoutubeDL.build_request_director": "(self, handlers, preferences=)",
    "yt_dlp:YoutubeDL.dl": "(self, name, info, subtitle=, test=)",
    "yt_dlp:YoutubeDL.process_ie_result": "(self, ie_result, download=, extra_info=)",
    "yt_dlp:YoutubeDL.urlopen": "(self, req)",
    "yt_dlp.cookies:CookieLoadError": "(msg=)",
    "yt_dlp.cookies:YoutubeDLCookieJar": "(filename=, *args, **kwargs)",
    "yt_dlp.cookies:YoutubeDLCookieJar.get_cookies_for_url": "(self, url)",
    "yt_dlp.cookies:YoutubeDLCookieJar.save": "(self, filename=, ignore_discard=, ignore_expires=)",
    "yt_dlp.downloader:FileDownloader": "(ydl, params)",
    "yt_dlp.downloader:FileDownloader._hook_progress": "(self, status, info_dict)",
    "yt_dlp.downloader:FileDownloader.report_retry": (
        "(self, err, count, retries, frag_index=, fatal=)"
    ),
    "yt_dlp.downloader:FileDownloader.add_progress_hook": "(self, ph)",
    "yt_dlp.downloader:FileDownloader.download": "(self, filename, info_dict, subtitle=)",
    "yt_dlp.downloader:FileDownloader.report_progress": "(self, s)",
    "yt_dlp.downloader:FileDownloader.real_download": "(self, filename, info_dict)",
    "yt_dlp.downloader:FileDownloader.temp_name": "(self, filename)",
    "yt_dlp.downloader:FileDownloader.try_remove": "(self, *args, **kwargs)",
    "yt_dlp.downloader:FileDownloader.ytdl_filename": "(self, filename)",
    "yt_dlp.downloader:get_suitable_downloader": (
        "(info_dict, params=, default=, protocol=, to_stdout=)"
    ),
    "yt_dlp.downloader.dash:DashSegmentsFD": "(ydl, params)",
    "yt_dlp.downloader.dash:DashSegmentsFD.real_download": "(self, filename, info_dict)",
    "yt_dlp.downloader.external:FFmpegFD.real_download": "(self, filename, info_dict)",
    "yt_dlp.downloader.fragment:FragmentFD._append_fragment": "(self, ctx, frag_content)",
    "yt_dlp.downloader.fragment:FragmentFD._prepare_and_start_frag_download": (
        "(self, ctx, info_dict)"
    ),
    "yt_dlp.downloader.fragment:FragmentFD._prepare_frag_download": "(self, ctx)",
    "yt_dlp.downloader.fragment:FragmentFD._prepare_url": "(self, info_dict, url)",
    "yt_dlp.downloader.fragment:FragmentFD._read_fragment": "(self, ctx)",
    "yt_dlp.downloader.fragment:FragmentFD._write_ytdl_file": "(self, ctx)",
    "yt_dlp.downloader.fragment:FragmentFD.decrypter": "(self, info_dict)",
    "yt_dlp.downloader.fragment:FragmentFD.download_and_append_fragments": (
        "(self, ctx, fragments, info_dict, *, is_fatal=, pack_func=, finish_func=, tpe=, "
        "interrupt_trigger=)"
    ),
    "yt_dlp.downloader.hls:HlsFD": "(ydl, params)",
    "yt_dlp.downloader.hls:HlsFD.can_download": "(manifest, info_dict, allow_unplayable_formats=)",
    "yt_dlp.downloader.dash:DashSegmentsFD._get_fragments": "(self, fmt, ctx, extra_query)",
    "yt_dlp.downloader.hls:HlsFD.real_download": "(self, filename, info_dict)",
    "yt_dlp.downloader.http:HttpFD": "(ydl, params)",
    "yt_dlp.downloader.http:HttpFD.real_download": "(self, filename, info_dict)",
    "yt_dlp:YoutubeDL.add_info_extractor": "(self, ie)",
    "yt_dlp.extractor:gen_extractor_classes": "()",
    "yt_dlp.extractor.common:InfoExtractor": "(downloader=)",
    "yt_dlp.extractor.common:InfoExtractor._match_id": "(url)",
    "yt_dlp.extractor.common:InfoExtractor.playlist_result": (
        "(entries, playlist_id=, playlist_title=, playlist_description=, *, multi_video=, **kwargs)"
    ),
    "yt_dlp.extractor.lazy_extractors:LazyLoadExtractor._match_valid_url": "(url)",
    "yt_dlp.extractor.generic:GenericIE._extract_rss": "(self, url, video_id, doc)",
    "yt_dlp.extractor.udemy:UdemyCourseIE._real_extract": "(self, url)",
    "yt_dlp.extractor.udemy:UdemyIE._download_json": "(self, url_or_request, *args, **kwargs)",
    "yt_dlp.extractor.udemy:UdemyIE._download_lecture": "(self, course_id, lecture_id)",
    "yt_dlp.extractor.udemy:UdemyIE._enroll_course": "(self, base_url, webpage, course_id)",
    "yt_dlp.extractor.udemy:UdemyIE._extract_course_info": "(self, webpage, video_id)",
    "yt_dlp.extractor.udemy:UdemyIE._real_extract": "(self, url)",
    "yt_dlp.networking._helper:_socket_connect": "(ip_addr, timeout, source_address)",
    "yt_dlp.networking._helper:create_connection": (
        "(address, timeout=, source_address=, *, _create_socket_func=)"
    ),
    "yt_dlp.networking._urllib:HTTPHandler": "(context=, source_address=, *args, **kwargs)",
    "yt_dlp.networking._urllib:HTTPHandler._make_conn_class": "(base, req)",
    "yt_dlp.networking._urllib:HTTPHandler.http_response": "(self, req, resp)",
    "yt_dlp.networking._urllib:ProxyHandler": "(proxies=)",
    "yt_dlp.networking._urllib:RedirectHandler": "()",
    "yt_dlp.networking._urllib:RedirectHandler.redirect_request": (
        "(self, req, fp, code, msg, headers, newurl)"
    ),
    "yt_dlp.networking._urllib:UrllibResponseAdapter": "(res)",
    "yt_dlp.networking._urllib:UrllibRH": "(*, enable_file_urls=, **kwargs)",
    "yt_dlp.networking._urllib:UrllibRH._create_instance": (
        "(self, proxies, cookiejar, legacy_ssl_support=)"
    ),
    "yt_dlp.networking._urllib:UrllibRH._make_sslcontext": "(self, legacy_ssl_support=)",
    "yt_dlp.networking._urllib:UrllibRH._prepare_headers": "(self, _, headers)",
    "yt_dlp.networking._urllib:UrllibRH._send": "(self, request)",
    "yt_dlp.networking.common:Request": (
        "(url, data=, headers=, proxies=, query=, method=, extensions=)"
    ),
    "yt_dlp.networking.common:RequestHandler": (
        "(*, logger, headers=, cookiejar=, timeout=, proxies=, source_address=, verbose=, "
        "prefer_system_certs=, client_cert=, verify=, legacy_ssl_support=, **_)"
    ),
    "yt_dlp.networking.common:Response": "(fp, url, headers, status=, reason=, extensions=)",
    "yt_dlp.networking.common:Response.read": "(self, amt=)",
    "yt_dlp.networking.exceptions:CertificateVerifyError": "(msg=, cause=, handler=)",
    "yt_dlp.networking.exceptions:HTTPError": "(response, redirect_loop=)",
    "yt_dlp.networking.exceptions:IncompleteRead": "(partial, expected=, **kwargs)",
    "yt_dlp.networking.exceptions:RequestError": "(msg=, cause=, handler=)",
    "yt_dlp.networking.exceptions:TransportError": "(msg=, cause=, handler=)",
    "yt_dlp.utils:RetryManager": "(_retries, _error_callback, **kwargs)",
    "yt_dlp.utils.networking:HTTPHeaderDict": "(*args, **kwargs)",
    "yt_dlp.postprocessor.ffmpeg:FFmpegPostProcessor": "(downloader=)",
    "yt_dlp.postprocessor.ffmpeg:FFmpegPostProcessor.get_metadata_object": "(self, path, opts=)",
    "yt_dlp.postprocessor.ffmpeg:FFmpegPostProcessor.real_run_ffmpeg": (
        "(self, input_path_opts, output_path_opts, *, expected_retcodes=)"
    ),
}

# Attributes that exist on instances only, by the class.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "yt_dlp:YoutubeDL": ("_progress_hooks", "_request_director", "cookiejar", "params"),
    "yt_dlp.cookies:YoutubeDLCookieJar": ("_cookies_lock", "filename"),
}


def replace_method(owner: type, name: str, replacement: Callable[..., object]) -> None:
    """Replace a method of a yt-dlp class, in this process, for good.

    The replacement keeps the original as `__wrapped__`, so its signature can still be checked.
    Raises AttributeError if yt-dlp has no such method any more.
    """
    original = inspect.getattr_static(owner, name)
    is_of_class = isinstance(original, classmethod)
    replaced = functools.wraps(original.__func__ if is_of_class else original)(replacement)
    setattr(owner, name, classmethod(replaced) if is_of_class else replaced)


def request_handlers(ydl: YoutubeDL) -> list[RequestHandler]:
    """Return the request handlers through which a YoutubeDL sends all its requests."""
    return list(ydl._request_director.handlers.values())


def replace_request_handlers(
    ydl: YoutubeDL, builders: Iterable[Callable[..., RequestHandler]]
) -> None:
    """Let these handlers, and no others, send the requests of a YoutubeDL.

    `builders` are called with the options (cookies, proxies, timeout ...) that yt-dlp passes to
    its own handlers. Call this after the cookie jar was set: handlers keep the one they were
    built with.
    """
    ydl._request_director.close()
    ydl._request_director = ydl.build_request_director(builders)


def connect_checked(
    address: tuple[str, int],
    timeout: object,
    source_address: tuple[str, int] | None,
    *,
    check: Callable[[str], None],
) -> socket.socket:
    """Connect as yt-dlp does, and call `check` with each IP address before it is contacted.

    The first three parameters are those of `socket.create_connection`. What `check` raises ends
    the attempt, unless it is an OSError: then the host's next address is tried.
    """

    def connect(address_info: tuple[Any, ...], timeout: object, source: object) -> socket.socket:
        *_, (ip_address, *_port) = address_info
        check(ip_address)
        connected: socket.socket = _socket_connect(address_info, timeout, source)
        return connected

    connected: socket.socket = create_connection(
        address, timeout, source_address, _create_socket_func=connect
    )
    return connected


def build_connection_class(
    base: type[http.client.HTTPConnection], request: urllib.request.Request
) -> type[http.client.HTTPConnection]:
    """Return the connection class that yt-dlp chooses for a request (SOCKS proxies have one)."""
    chosen: type[http.client.HTTPConnection] = HTTPHandler._make_conn_class(base, request)
    return chosen


def download_with(
    ydl: YoutubeDL, downloader: FileDownloader, name: str, info: dict[str, Any], subtitle: bool
) -> object:
    """Download a format to the file `name`: the second half of `YoutubeDL.dl`.

    The first half chooses a downloader; here it is given.
    """
    for hook in ydl._progress_hooks:
        downloader.add_progress_hook(hook)
    info = ydl._copy_infodict(info)
    if info.get("http_headers") is None:
        info["http_headers"] = ydl._calc_headers(info)
    return downloader.download(name, info, subtitle)
