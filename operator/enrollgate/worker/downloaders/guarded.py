"""yt-dlp's network, guarded: every request, every redirect and every address is checked before anything is sent.

yt-dlp has several request handlers and may hand a stream to ffmpeg. Here there is one handler, urllib's, with a check of ours in
its opener (urllib runs it for redirects, too) and in the making of its connections (a name that resolves to a private address
is refused, whatever it resolved to a moment ago); ffmpeg may join files but not fetch them.
"""

import contextlib
import functools
import http.client
import io
import socket
import urllib.request
import weakref
from pathlib import Path
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.downloader import FileDownloader, get_suitable_downloader
from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.external import FFmpegFD
from yt_dlp.downloader.hls import HlsFD
from yt_dlp.downloader.http import HttpFD
from yt_dlp.networking import _helper as helper
from yt_dlp.networking._urllib import HTTPHandler, UrllibRH
from yt_dlp.networking.common import Request, Response
from yt_dlp.networking.exceptions import HTTPError, RequestError, TransportError

from enrollgate.domain.hosts import check_address, check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.pages import refuse_page
from enrollgate.worker.downloaders.streams import DurableDashFD, DurableHlsFD

_MEDIA_URL_LENGTH = 16384
"""Characters: signed media URLs are long, and the site, not a row, gives them."""
_THROUGH_OUR_HANDLER = {HttpFD: HttpFD, HlsFD: DurableHlsFD, DashSegmentsFD: DurableDashFD}
"""yt-dlp's ways of downloading that pass through it, and ours in their place."""
LISTS = ("playlist", "multi_video")
"""What yt-dlp calls a result that consists of others."""
_ERROR_PAGE = 1 << 20
"""Bytes of an error's page that are read, at most."""


class Refused(RequestError):  # type: ignore[misc]  # yt-dlp carries no types
    """A request that may not be sent. Carries the Failure through yt-dlp's own wrapping."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, cause=failure)
        self.failure = failure


class _Check(urllib.request.BaseHandler):
    """Sees every request of an opener before it is sent, redirects included."""

    handler_order = 1

    def __init__(self, allowed_hosts: tuple[str, ...]) -> None:
        self._allowed_hosts = allowed_hosts

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Raises Refused unless the URL may be contacted."""
        try:
            check_url(request.full_url, self._allowed_hosts, max_length=_MEDIA_URL_LENGTH)
        except Failure as failure:
            raise Refused(failure) from failure
        return request

    https_request = ftp_request = data_request = file_request = http_request


def _connect(
    allowed_hosts: tuple[str, ...], address: tuple[str, int], *arguments: Any, **options: Any
) -> socket.socket:
    host, port = address

    def checked(found: Any, timeout: Any, source: Any) -> socket.socket:
        try:
            check_address(host, port, found[4][0], allowed_hosts)
        except Failure as failure:
            raise Refused(failure) from failure
        connected: socket.socket = helper._socket_connect(found, timeout, source)
        return connected

    connected: socket.socket = helper.create_connection(
        address, *arguments, _create_socket_func=checked, **options
    )
    return connected


class _Connections(HTTPHandler):  # type: ignore[misc]  # as above
    """yt-dlp's HTTP handler, with connections that check the address they connect to."""

    def __init__(self, allowed_hosts: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self._allowed_hosts = allowed_hosts

    def _make_conn_class(
        self, base: type[http.client.HTTPConnection], req: urllib.request.Request
    ) -> Any:
        made = HTTPHandler._make_conn_class(base, req)
        if req.has_proxy() or getattr(req, "_tunnel_host", None):
            return made  # the administrator's proxy connects; the URL was checked
        connector = functools.partial(_connect, self._allowed_hosts)

        class Guarded(made):  # type: ignore[valid-type, misc]  # the base is chosen by yt-dlp at run time
            def connect(self) -> None:
                self._create_connection = (
                    connector  # here, since yt-dlp sets its own after the constructor
                )
                super().connect()

        return Guarded


class GuardedHandler(UrllibRH):  # type: ignore[misc]  # as above
    """The one request handler: http and https only, each request and each connection checked."""

    _SUPPORTED_URL_SCHEMES = ("http", "https")
    RH_NAME = "urllib"
    RH_KEY = "Urllib"

    def __init__(self, *, allowed_hosts: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self._allowed_hosts = allowed_hosts
        self._open: weakref.WeakSet[Response] = weakref.WeakSet()

    def close_connections(self) -> None:
        """Closes what yt-dlp has left open: it looks at the head of a file, then asks for it anew."""
        for response in list(self._open):
            response.close()
        self._open.clear()

    def _send(self, request: Request) -> Response:
        try:
            response = super()._send(request)
        except HTTPError as error:
            raise HTTPError(_detached(error.response), error.redirect_loop) from error
        self._open.add(response)
        return response

    def _create_instance(self, *arguments: Any, **options: Any) -> urllib.request.OpenerDirector:
        opener: urllib.request.OpenerDirector = super()._create_instance(*arguments, **options)
        connections = _Connections(
            self._allowed_hosts,
            context=self._make_sslcontext(legacy_ssl_support=options.get("legacy_ssl_support")),
            source_address=self.source_address,
        )
        # yt-dlp's own handler must leave every list: it decompresses answers, and would do so a second time beside ours.
        for handlers in (opener.handle_open, opener.process_request, opener.process_response):  # type: ignore[attr-defined]  # typeshed leaves them out
            for scheme in ("http", "https"):
                handlers[scheme] = [
                    each for each in handlers[scheme] if not isinstance(each, HTTPHandler)
                ]
        opener.add_handler(connections)
        opener.add_handler(_Check(self._allowed_hosts))
        return opener


def _detached(response: Response) -> Response:
    """An error page in memory, its connection closed: yt-dlp drops such responses without closing them."""
    body = b""
    with contextlib.suppress(TransportError):
        body = response.read(_ERROR_PAGE)
    response.close()
    return Response(
        io.BytesIO(body), response.url, response.headers, response.status, response.reason
    )


class SharedCookies(YoutubeDLCookieJar):  # type: ignore[misc]  # as above
    """A cookie jar for several threads. http.cookiejar locks what a request needs; yt-dlp reads past the lock."""

    def __init__(self, others: YoutubeDLCookieJar) -> None:
        super().__init__(others.filename)
        for cookie in others:
            self.set_cookie(cookie)

    def get_cookies_for_url(self, url: str) -> Any:
        """The cookies that a request to the URL would carry."""
        with self._cookies_lock:
            return super().get_cookies_for_url(url)

    def save(self, *arguments: Any, **options: Any) -> None:
        """Writes the file back."""
        with self._cookies_lock:
            super().save(*arguments, **options)


class _Logger:
    """yt-dlp's chatter goes nowhere: errors reach us as exceptions."""

    def debug(self, message: str) -> None: ...
    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def _refuse_to_fetch(*_: object, **__: object) -> bool:
    raise Refused(
        Failure(
            Reason.UNSUPPORTED_COURSE, "this stream needs ffmpeg to fetch it, which is not allowed"
        )
    )


class Nested(Exception):
    """What was to be downloaded is itself a list. yt-dlp would download all of it, each into the file of the one before."""

    def __init__(self, listed: dict[str, Any]) -> None:
        super().__init__()
        self.listed = listed


class _GuardedYoutubeDL(YoutubeDL):  # type: ignore[misc]  # as above
    """Downloads one item at a time, and only in ways that pass through our handler: other programs (rtmpdump, mplayer) would
    not."""

    def process_ie_result(
        self,
        ie_result: dict[str, Any],
        download: bool = True,
        extra_info: dict[str, Any] | None = None,
    ) -> Any:
        """Raises Nested before anything of a list is downloaded."""
        if download and ie_result.get("_type") in LISTS:
            raise Nested(ie_result)
        return super().process_ie_result(ie_result, download, extra_info)

    def dl(
        self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False
    ) -> Any:
        """Refuses formats that another program would have to fetch.

        What looking at the media has left open is closed first, or the site would go on sending it.
        """
        close_connections(self)
        if not info.get("url"):
            return super().dl(name, info, subtitle, test)  # says what is missing
        kind = _THROUGH_OUR_HANDLER.get(get_suitable_downloader(info, self.params))
        if kind is None:
            protocol = str(info.get("protocol"))[:20]
            message = f"this item comes by {protocol}, which only another program could fetch"
            raise Refused(Failure(Reason.UNSUPPORTED_COURSE, message))
        if test:
            return super().dl(name, info, subtitle, test)
        done = self._download(kind(self, self.params), name, info, subtitle)
        refuse_page(Path(name))
        return done

    def _download(
        self, downloader: FileDownloader, name: str, info: dict[str, Any], subtitle: bool
    ) -> Any:
        """The rest of yt-dlp's own `dl`, with a downloader of ours."""
        for hook in self._progress_hooks:
            downloader.add_progress_hook(hook)
        asked = self._copy_infodict(info)
        if asked.get("http_headers") is None:
            asked["http_headers"] = self._calc_headers(asked)
        return downloader.download(name, asked, subtitle)


def close_connections(ydl: YoutubeDL) -> None:
    """Closes every answer that is still open."""
    for handler in ydl._request_director.handlers.values():
        handler.close_connections()


def open_youtube_dl(
    options: dict[str, Any], allowed_hosts: tuple[str, ...], cookies: SharedCookies | None = None
) -> YoutubeDL:
    """A YoutubeDL whose network is guarded. `cookies`: those of another one, which both use from then on."""
    FFmpegFD.real_download = _refuse_to_fetch  # in a worker's process there is no other use of it
    ydl = _GuardedYoutubeDL({**options, "logger": _Logger()})
    ydl.cookiejar = SharedCookies(ydl.cookiejar) if cookies is None else cookies
    plain = ydl.build_request_director([UrllibRH]).handlers["Urllib"]
    handler = GuardedHandler(
        allowed_hosts=allowed_hosts,
        logger=plain._logger,
        headers=plain.headers,
        cookiejar=plain.cookiejar,
        proxies=plain.proxies,
        prefer_system_certs=plain.prefer_system_certs,
        verbose=plain.verbose,
        timeout=plain.timeout,
        legacy_ssl_support=plain.legacy_ssl_support,
        verify=plain.verify,
    )
    director = ydl._request_director
    director.close()
    director.preferences.clear()
    director.add_handler(handler)
    return ydl
