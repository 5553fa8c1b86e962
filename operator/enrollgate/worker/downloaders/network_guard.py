"""Check every request, redirect and connection of yt-dlp before anything is sent.

yt-dlp has several request handlers. We give it one, which is based on urllib and knows http and
https only. urllib calls our check for each request, redirects included. Each new connection checks
the IP address that it connects to, so a host name that suddenly resolves to a private address is
refused, too. What goes in: the allowed hosts. What comes out: a response, or `RequestRefused`.
"""

import functools
import http.client
import socket
import ssl
import threading
import urllib.request
import urllib.response
import weakref
from typing import IO

from typing_extensions import override

from enrollgate.domain.enrollment import check_never_enrolls
from enrollgate.domain.hosts import check_address, check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.answers import (
    AnswerLimits,
    BoundedResponse,
    WatchedAnswer,
)
from enrollgate.worker.downloaders.decompression import decompress
from enrollgate.worker.downloaders.headers import headers_for_url
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.site_answers import is_login_url, login_required
from enrollgate.worker.downloaders.yt_dlp_compat import (
    HTTPError,
    HTTPHandler,
    ProxyHandler,
    RedirectHandler,
    Request,
    Response,
    UrllibRH,
    YoutubeDLCookieJar,
    build_connection_class,
    connect_checked,
)

# Characters. The site chooses media URLs, and signed ones are long.
_MAX_MEDIA_URL_LENGTH = 16384
# The encodings that we decompress. yt-dlp would also offer those of libraries on the machine.
_ENCODINGS = ("gzip", "deflate", "identity")
_REDIRECTS = (301, 302, 303, 307, 308)


class _UrlCheck(urllib.request.BaseHandler):
    """See each request of an opener before it is sent, redirects included."""

    handler_order = 1

    def __init__(self, allowed_hosts: tuple[str, ...]) -> None:
        self._allowed_hosts = allowed_hosts

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Return the request. Raises RequestRefused unless it may be sent."""
        body = request.data if isinstance(request.data, bytes) else None
        try:
            check_url(request.full_url, self._allowed_hosts, max_length=_MAX_MEDIA_URL_LENGTH)
            check_never_enrolls(request.get_method(), request.full_url, body)
        except Failure as failure:
            if request.unverifiable and is_login_url(request.full_url):
                # A redirect to the login of another host, which need not be allowed.
                raise RequestRefused(login_required("a redirect to a login page")) from failure
            raise RequestRefused(failure) from failure
        return request

    https_request = ftp_request = data_request = file_request = http_request


class _GuardedRedirectHandler(RedirectHandler):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's redirect handler, which takes no token to another site."""

    @override
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request:
        """Return the request for the new address, without what is not meant for it."""
        request: urllib.request.Request = super().redirect_request(
            req, fp, code, msg, headers, newurl
        )
        request.headers = headers_for_url(newurl, request.headers, req.full_url)
        # The new address may need no proxy, or another one.
        request.remove_header("Proxy-authorization")
        return request


class _GuardedHTTPHandler(HTTPHandler):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's HTTP handler, whose connections check the address that they connect to."""

    def __init__(
        self, allowed_hosts: tuple[str, ...], limits: AnswerLimits, **options: object
    ) -> None:
        super().__init__(**options)
        self._allowed_hosts = allowed_hosts
        self._limits = limits

    def _make_conn_class(
        self, base: type[http.client.HTTPConnection], req: urllib.request.Request
    ) -> type[http.client.HTTPConnection]:
        allowed_hosts, limits = self._allowed_hosts, self._limits

        # yt-dlp chooses the base class at run time.
        class WatchedConnection(build_connection_class(base, req)):  # type: ignore[misc]
            response_class = staticmethod(functools.partial(WatchedAnswer, limits=limits))

        if req.has_proxy() or getattr(req, "_tunnel_host", None):
            return WatchedConnection  # The administrator's proxy connects. The URL was checked.

        def connect(
            address: tuple[str, int],
            timeout: object = None,
            source_address: tuple[str, int] | None = None,
        ) -> socket.socket:
            def check(ip_address: str) -> None:
                try:
                    check_address(*address, ip_address, allowed_hosts)
                except Failure as failure:
                    raise RequestRefused(failure) from failure

            return connect_checked(address, timeout, source_address, check=check)

        class GuardedConnection(WatchedConnection):
            def connect(self) -> None:
                # Set here, because yt-dlp sets its own after the constructor.
                self._create_connection = connect
                super().connect()

        return GuardedConnection

    def http_response(
        self, _req: urllib.request.Request, resp: WatchedAnswer
    ) -> WatchedAnswer | urllib.response.addinfourl:
        """Decompress the body while it is read.

        yt-dlp would decompress all of it at once, in memory, however much that is.
        """
        if resp.status in _REDIRECTS:
            resp.close()  # urllib would read its body as a whole
            return resp
        body = decompress(",".join(resp.headers.get_all("Content-Encoding", [])), resp)
        if body is None:
            return resp
        decoded = urllib.response.addinfourl(body, resp.headers, resp.url, resp.status)
        decoded.msg = resp.msg  # type: ignore[attr-defined]  # urllib's error handlers read it
        decoded.answer = resp  # type: ignore[attr-defined]  # for BoundedResponse
        return decoded

    https_response = http_response


class GuardedRequestHandler(UrllibRH):  # type: ignore[misc]  # yt-dlp has no types
    """The only request handler: http and https, each request and each connection checked."""

    _SUPPORTED_URL_SCHEMES = ("http", "https")
    RH_NAME = "urllib"
    RH_KEY = "Urllib"

    def __init__(
        self,
        *,
        allowed_hosts: tuple[str, ...],
        limits: AnswerLimits | None = None,
        tls_contexts: dict[bool | None, ssl.SSLContext] | None = None,
        **options: object,
    ) -> None:
        super().__init__(**options)
        # Those of a run, which has the same options everywhere. Threads may share them.
        self._tls_contexts = {} if tls_contexts is None else tls_contexts
        self._allowed_hosts = allowed_hosts
        self._limits = limits or AnswerLimits(threading.Event())
        # The latest answer, and its address: an extractor only looks at it before a download.
        self._latest: tuple[str, BoundedResponse] | None = None
        self._open_responses: weakref.WeakSet[Response] = weakref.WeakSet()
        # While media are downloaded: the address that their headers are meant for.
        self.media_url: str | None = None

    def close_connections(self, *, but: str | None = None) -> None:
        """Close the responses that yt-dlp left open, but for that of one address.

        It reads the start of a file, then requests the file again without closing the first.
        """
        kept = self._latest[1] if self._latest is not None and self._latest[0] == but else None
        if kept is None:
            self._latest = None
        for response in list(self._open_responses):
            if response is not kept:
                response.close()
                self._open_responses.discard(response)

    def _prepare_headers(self, request: Request, headers: dict[str, str]) -> None:
        """Leave out what is not meant for the request's host, and encodings that we cannot undo."""
        offered = headers.get("Accept-Encoding", "gzip, deflate").split(",")
        names = [each.strip() for each in offered if each.strip().partition(";")[0] in _ENCODINGS]
        headers["Accept-Encoding"] = ", ".join(names) or "identity"
        kept = headers_for_url(request.url, headers, self.media_url or request.url)
        for name, value in list(headers.items()):
            if name not in kept:
                del headers[name]
            elif kept[name] != value:
                headers[name] = kept[name]

    def _send(self, request: Request) -> Response:
        if self._limits.stop.is_set():
            raise RequestRefused(
                Failure(Reason.STOPPED, "asked to stop; nothing more is requested")
            )
        # It asks for a file as it is, and as a whole.
        is_plain = (
            request.method == "GET"
            and request.headers.get("Accept-Encoding") == "identity"
            and {name.lower() for name in request.headers}.isdisjoint({"range", "if-range"})
        )
        if self._latest is not None and self._latest[0] == request.url:
            latest = self._latest[1]
            if is_plain and latest.rewind():
                return latest
            # Else the site would go on sending it, beside the range that is wanted of it.
            latest.close()
        self._latest = None
        try:
            response = BoundedResponse(super()._send(request))
        except HTTPError as error:
            # yt-dlp drops error responses without closing them.
            page = BoundedResponse(error.response).keep_error_page()
            raise HTTPError(page, error.redirect_loop) from error
        self._open_responses.add(response)
        if is_plain and response.status == 200:
            self._latest = response.url, response
        return response

    def _create_instance(
        self,
        proxies: dict[str, str | None],
        cookiejar: YoutubeDLCookieJar,
        legacy_ssl_support: bool | None = None,
    ) -> urllib.request.OpenerDirector:
        context = self._tls_contexts.get(legacy_ssl_support)
        if context is None:
            context = self._make_sslcontext(legacy_ssl_support=legacy_ssl_support)
            self._tls_contexts[legacy_ssl_support] = context
        # yt-dlp's own opener also has handlers for data, ftp and file URLs. It must not be
        # extended: a second HTTP handler would decompress each answer twice.
        opener = urllib.request.OpenerDirector()
        for handler in (
            _UrlCheck(self._allowed_hosts),
            ProxyHandler(proxies),
            _GuardedHTTPHandler(
                self._allowed_hosts,
                self._limits,
                context=context,
                source_address=self.source_address,
            ),
            urllib.request.HTTPCookieProcessor(cookiejar),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _GuardedRedirectHandler(),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        return opener
