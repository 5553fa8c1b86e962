"""Check every request, redirect and connection of yt-dlp before anything is sent.

yt-dlp has several request handlers. We give it one, which is based on urllib and knows http and
https only. urllib calls our check for each request, redirects included. Each new connection checks
the IP address that it connects to, so a host name that suddenly resolves to a private address is
refused, too. What goes in: the allowed hosts. What comes out: a response, or `RequestRefused`.
"""

import contextlib
import http.client
import io
import socket
import urllib.request
import urllib.response
import weakref
from collections.abc import Callable

from enrollgate.domain.hosts import check_address, check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.decompression import decompress
from enrollgate.worker.downloaders.yt_dlp_compat import (
    HTTPError,
    HTTPHandler,
    ProxyHandler,
    RedirectHandler,
    Request,
    RequestError,
    Response,
    TransportError,
    UrllibRH,
    YoutubeDLCookieJar,
    build_connection_class,
    connect_checked,
)

# Characters. The site chooses media URLs, and signed ones are long.
_MAX_MEDIA_URL_LENGTH = 16384
# Bytes of a page, a playlist or an answer of an API, decompressed.
_MAX_PAGE = 64 << 20
_BLOCK = 1 << 16
# Bytes of an error page that are kept.
_MAX_ERROR_PAGE = 1 << 20


class RequestRefused(RequestError):  # type: ignore[misc]  # yt-dlp has no types
    """A request that must not be sent. It carries the Failure through yt-dlp's own errors."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, cause=failure)
        self.failure = failure


class _UrlCheck(urllib.request.BaseHandler):
    """See each request of an opener before it is sent, redirects included."""

    handler_order = 1

    def __init__(self, allowed_hosts: tuple[str, ...]) -> None:
        self._allowed_hosts = allowed_hosts

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Return the request. Raises RequestRefused unless its URL may be contacted."""
        try:
            check_url(request.full_url, self._allowed_hosts, max_length=_MAX_MEDIA_URL_LENGTH)
        except Failure as failure:
            raise RequestRefused(failure) from failure
        return request

    https_request = ftp_request = data_request = file_request = http_request


class _GuardedHTTPHandler(HTTPHandler):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's HTTP handler, whose connections check the address that they connect to."""

    def __init__(self, allowed_hosts: tuple[str, ...], **options: object) -> None:
        super().__init__(**options)
        self._allowed_hosts = allowed_hosts

    def _make_conn_class(
        self, base: type[http.client.HTTPConnection], req: urllib.request.Request
    ) -> type[http.client.HTTPConnection]:
        chosen = build_connection_class(base, req)
        if req.has_proxy() or getattr(req, "_tunnel_host", None):
            return chosen  # The administrator's proxy connects. The URL was checked.
        allowed_hosts = self._allowed_hosts

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

        # yt-dlp chooses the base class at run time.
        class GuardedConnection(chosen):  # type: ignore[valid-type, misc]
            def connect(self) -> None:
                # Set here, because yt-dlp sets its own after the constructor.
                self._create_connection = connect
                super().connect()

        return GuardedConnection

    def http_response(
        self, _req: urllib.request.Request, resp: urllib.response.addinfourl
    ) -> urllib.response.addinfourl:
        """Decompress the body while it is read.

        yt-dlp would decompress all of it at once, in memory, however much that is.
        """
        body = decompress(resp.headers.get("Content-Encoding", ""), resp)
        if body is None:
            return resp
        answer = urllib.response.addinfourl(body, resp.headers, resp.url, resp.code)
        answer.msg = resp.msg  # type: ignore[attr-defined]  # urllib's error handlers read it
        return answer

    https_response = http_response


class GuardedRequestHandler(UrllibRH):  # type: ignore[misc]  # yt-dlp has no types
    """The only request handler: http and https, each request and each connection checked."""

    _SUPPORTED_URL_SCHEMES = ("http", "https")
    RH_NAME = "urllib"
    RH_KEY = "Urllib"

    def __init__(self, *, allowed_hosts: tuple[str, ...], **options: object) -> None:
        super().__init__(**options)
        self._allowed_hosts = allowed_hosts
        self._open_responses: weakref.WeakSet[Response] = weakref.WeakSet()

    def close_connections(self) -> None:
        """Close the responses that yt-dlp left open.

        It reads the start of a file, then requests the file again without closing the first.
        """
        for response in list(self._open_responses):
            response.close()
        self._open_responses.clear()

    def _send(self, request: Request) -> Response:
        try:
            response = super()._send(request)
        except HTTPError as error:
            # yt-dlp drops error responses without closing them. Keep the page in memory instead.
            page = b""
            with contextlib.suppress(TransportError):
                page = error.response.read(_MAX_ERROR_PAGE)
            error.response.close()
            copy = Response(
                io.BytesIO(page),
                error.response.url,
                error.response.headers,
                error.response.status,
                error.response.reason,
            )
            raise HTTPError(copy, error.redirect_loop) from error
        self._open_responses.add(response)
        response.read = _bounded(response)
        return response

    def _create_instance(
        self,
        proxies: dict[str, str | None],
        cookiejar: YoutubeDLCookieJar,
        legacy_ssl_support: bool | None = None,
    ) -> urllib.request.OpenerDirector:
        # yt-dlp's own opener also has handlers for data, ftp and file URLs. It must not be
        # extended: a second HTTP handler would decompress each answer twice.
        opener = urllib.request.OpenerDirector()
        for handler in (
            _UrlCheck(self._allowed_hosts),
            ProxyHandler(proxies),
            _GuardedHTTPHandler(
                self._allowed_hosts,
                context=self._make_sslcontext(legacy_ssl_support=legacy_ssl_support),
                source_address=self.source_address,
            ),
            urllib.request.HTTPCookieProcessor(cookiejar),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            RedirectHandler(),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        return opener


def _bounded(response: Response) -> Callable[..., bytes]:
    """Return a `read` for this response that refuses to read more than a page as a whole.

    Media are read block by block: they may have any size.
    """
    read: Callable[[Response, int], bytes] = type(response).read
    # A strong reference would be a cycle: the socket of a dropped response would stay open.
    weak = weakref.ref(response)

    def bounded_read(amt: int | None = None) -> bytes:
        owner = weak()
        if amt is not None and amt >= 0:
            return read(owner, amt)
        page = bytearray()
        while block := read(owner, _BLOCK):
            page += block
            if len(page) > _MAX_PAGE:
                message = f"a page of the site has more than {_MAX_PAGE >> 20} MiB"
                if owner is not None:
                    owner.close()
                raise RequestRefused(Failure(Reason.SITE_ERROR, message))
        return bytes(page)

    return bounded_read
