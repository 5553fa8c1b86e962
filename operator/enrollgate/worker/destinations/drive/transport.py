"""The HTTP connections of one thread: through the configured proxy, and with bounded answers.

httplib2 sends the requests, on connections that are made here with `http.client`, for three
reasons. httplib2 ignores a proxy without a scheme and goes direct. PySocks, which it uses for
proxies, may leave a part of an HTTP proxy's answer unread, and TLS then fails. And httplib2 reads
an answer of any size into memory.

Redirects are not followed: Drive's API sends none, and the access token goes nowhere else.
"""

import base64
import http.client
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httplib2
import socks  # type: ignore[import-untyped]  # PySocks has no types
from httplib2.decode import DecodeLimitError, DecodeRatioError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.errors import ProxyRefused, UnreadableResponse
from enrollgate.worker.scratch import CHUNK_SIZE

# Bytes of an answer, before and after decompression. A full page of a folder's list has 1 MiB.
MAX_ANSWER = 16 * 1024 * 1024
# Hosts of Google Cloud's metadata server. It gives tokens, and answers only its own machine.
_METADATA_HOSTS = ("metadata.google.internal", "169.254.169.254", "metadata")
_SOCKS = {
    "socks4": socks.SOCKS4,
    "socks4a": socks.SOCKS4,
    "socks": socks.SOCKS5,
    "socks5": socks.SOCKS5,
    "socks5h": socks.SOCKS5,
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy. `kind` is `http` (CONNECT) or the scheme of a SOCKS proxy."""

    kind: str
    host: str
    port: int
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Proxy({self.kind}://{self.host}:{self.port})"  # without the password


def choose_proxy(environ: Mapping[str, str], scheme: str, host: str) -> Proxy | None:
    """Return the proxy for a host, or None to connect directly.

    The variables are those of curl and yt-dlp: `HTTPS_PROXY` or `HTTP_PROXY` by `scheme`, else
    `ALL_PROXY`, each in lower case first. `NO_PROXY` lists hosts and domains, or `*`.

    Raises Failure (ConfigurationError) if the variable names no proxy that can be used.
    """
    host = host.lower()
    if host in _METADATA_HOSTS:
        return None
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    for entry in re.split(r"[\s,]+", exempt.lower()):
        domain = re.sub(r":\d+$", "", entry).removeprefix("*.").strip(".")
        if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return None
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    name = next((name for name in names if environ.get(name, "").strip()), None)
    if name is None:
        return None
    value = environ[name].strip()
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        kind, port = parts.scheme.lower(), parts.port
    except ValueError:
        kind, port = "", None
    if (kind != "http" and kind not in _SOCKS) or not parts.hostname:
        raise Failure(
            Reason.CONFIGURATION_ERROR,
            f"{name} names no proxy that Google Drive can be reached through",
            remedy=f"Set {name} to http://host:port or socks5h://host:port.",
        )
    return Proxy(
        kind,
        parts.hostname,
        port or (80 if kind == "http" else 1080),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


class Transport:
    """Send requests as httplib2 does. Not thread-safe.

    `timeout` is in seconds without progress. `environ` names proxies and certificate authorities.
    """

    def __init__(self, timeout: float, environ: Mapping[str, str] = os.environ) -> None:
        self._timeout = timeout
        self._environ = environ
        self._http = httplib2.Http(timeout=timeout, decode_limit_hard=MAX_ANSWER)
        self._http.follow_redirects = False
        self._context: ssl.SSLContext | None = None

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: object = None,
        headers: dict[str, str] | None = None,
        **_ignored: object,
    ) -> tuple[Any, bytes]:
        """Send one request and return the response and its body.

        Raises ProxyRefused, UnreadableResponse, Failure (ConfigurationError), and what httplib2 and
        sockets raise.
        """
        parts = urlsplit(uri)
        key = f"{parts.scheme}:{parts.netloc.lower()}"
        if key not in self._http.connections:
            self._http.connections[key] = self._connection(
                parts.scheme, parts.hostname or "", parts.port
            )
        try:
            response, content = self._http.request(uri, method, body=body, headers=headers)
        except (DecodeLimitError, DecodeRatioError):
            raise UnreadableResponse("an answer that decompresses without an end") from None
        except OSError as error:
            refusal = re.match(r"Tunnel connection failed: (\d{3})", str(error))
            if refusal is not None:
                raise ProxyRefused(int(refusal[1])) from None
            raise
        return response, content

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        proxy = choose_proxy(self._environ, scheme, host)
        tunnel = proxy if proxy is not None and proxy.kind == "http" else None
        address = (tunnel.host, tunnel.port) if tunnel else (host, port)
        if scheme == "https" and self._context is None:
            # The administrator's authorities, which Python reads from these variables itself.
            own = self._environ.get("SSL_CERT_FILE") or self._environ.get("SSL_CERT_DIR")
            authorities = None if own else httplib2.certs.where()
            self._context = ssl.create_default_context(cafile=authorities)
            # Those of proxies seldom conform to RFC 5280, which Python 3.13 asks for by default.
            self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context = self._context if scheme == "https" else None
        connection: http.client.HTTPConnection
        if proxy is not None and tunnel is None:
            connection = _SocksConnection(host, port, self._timeout, proxy, context)
        elif context is not None:
            connection = http.client.HTTPSConnection(
                *address, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(*address, timeout=self._timeout)
        connection.response_class = _BoundedResponse
        connection.blocksize = CHUNK_SIZE
        if tunnel is not None:
            login = base64.b64encode(f"{tunnel.user}:{tunnel.password}".encode()).decode()
            headers = {"Proxy-Authorization": f"Basic {login}"} if tunnel.user else {}
            connection.set_tunnel(host, port or (443 if context else 80), headers)
        return connection


class _SocksConnection(http.client.HTTPConnection):
    """A connection through a SOCKS proxy, with TLS if there is a `context`."""

    def __init__(
        self,
        host: str,
        port: int | None,
        timeout: float,
        proxy: Proxy,
        context: ssl.SSLContext | None,
    ) -> None:
        self.default_port = 80 if context is None else 443
        super().__init__(host, port, timeout=timeout)
        self._proxy = proxy
        self._context = context

    def connect(self) -> None:
        self.sock = socks.create_connection(
            (self.host, self.port),
            timeout=self.timeout,
            proxy_type=_SOCKS[self._proxy.kind],
            proxy_addr=self._proxy.host,
            proxy_port=self._proxy.port,
            proxy_rdns=self._proxy.kind not in ("socks4", "socks5"),
            proxy_username=self._proxy.user or None,
            proxy_password=self._proxy.password or None,
        )
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


class _BoundedResponse(http.client.HTTPResponse):
    """A response that is never longer than `MAX_ANSWER`."""

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        if self.length is not None and self.length <= MAX_ANSWER:
            return super().read()  # notices if fewer bytes come
        content = super().read(MAX_ANSWER + 1) if self.length is None else b""
        if self.length is not None or len(content) > MAX_ANSWER:
            self.close()
            raise UnreadableResponse("an answer without an end")
        return content
