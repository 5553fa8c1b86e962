"""The server of the page: who may ask, what every response carries, and what an error looks like.

Only GET and HEAD are answered. No page may load anything from elsewhere, run an inline script, or
be shown in a frame. On a loopback address without a token, only requests for a loopback host are
answered: otherwise a web site could read the page through a name that it points to 127.0.0.1.
"""

import asyncio
import base64
import binascii
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from ipaddress import ip_address

import structlog
from aiohttp import web

from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.settings.web import WebSettings
from enrollgate.web.pages import Pages

_LOG = structlog.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# https://www.w3.org/TR/CSP3/
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Bytes of a request's line, and of one of its headers, at most.
_REQUEST_LIMIT = 8190
# Seconds that a connection without a request is kept.
_KEEPALIVE = 30.0


class PageUnavailable(Exception):
    """The page cannot be served; the message says why, and what to change."""


async def serve(pages: Pages, settings: WebSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises PageUnavailable if the port cannot be used."""
    runner = web.AppRunner(
        build_application(pages, settings),
        access_log=None,
        keepalive_timeout=_KEEPALIVE,
        max_line_size=_REQUEST_LIMIT,
        max_field_size=_REQUEST_LIMIT,
    )
    await runner.setup()
    host = None if settings.address == "*" else settings.address
    try:
        try:
            await web.TCPSite(runner, host, settings.port, shutdown_timeout=2).start()
        except OSError as error:
            raise PageUnavailable(
                f"ENROLLGATE_WEB__PORT={settings.port}: {error.strerror}: choose another port, or "
                f"another ENROLLGATE_WEB__ADDRESS than {settings.address}"
            ) from error
        _LOG.info("serving the page", url=page_url(settings))
        await stop.wait()
    finally:
        await runner.cleanup()
        pages.close()


def page_url(settings: WebSettings) -> str:
    """Return the page's URL for people on this machine."""
    is_any = settings.address == "*" or ip_address(settings.address).is_unspecified
    host = "127.0.0.1" if is_any else settings.address
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/"


def build_application(pages: Pages, settings: WebSettings) -> web.Application:
    """Build the application: routes, access and errors."""

    @web.middleware
    async def check_request(request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse what is no GET or HEAD, and everyone without access."""
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
        if request.path != "/livez":
            if settings.token is not None:
                if not is_authorized(request.headers, settings.token.get_secret_value()):
                    return pages.render(
                        "message.html",
                        status_code=401,
                        title="A token is needed",
                        text="Write the token of ENROLLGATE_WEB__TOKEN as the password. "
                        "The user name may be anything.",
                    )
            elif not settings.behind_proxy and not is_loopback_host(request.host):
                raise web.HTTPMisdirectedRequest(
                    text="Open the page as http://127.0.0.1 or http://localhost. If a proxy is in "
                    "front of it, set ENROLLGATE_WEB__BEHIND_PROXY=true."
                )
        return await handler(request)

    @web.middleware
    async def explain_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn errors into pages that say what to do."""
        try:
            return await handler(request)
        except (DatabaseMisconfigured, DatabaseUnavailable) as error:
            _LOG.warning("the database does not answer the page", problem=str(error))
            code, title, text = 503, "The database does not answer", str(error)
        except web.HTTPNotFound:
            code, title, text = 404, "There is no such page", f"{request.path} does not exist."
        except web.HTTPMisdirectedRequest as error:
            code, title, text = error.status, "Not under this host name", error.text or ""
        return pages.render("message.html", status_code=code, title=title, text=text)

    async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        # Pages change, and show what not everybody may see.
        response.headers.setdefault("Cache-Control", "no-store")
        if response.status == web.HTTPUnauthorized.status_code:
            response.headers["WWW-Authenticate"] = 'Basic realm="Enrollgate", charset="UTF-8"'

    application = web.Application(middlewares=[explain_errors, check_request])
    application.on_response_prepare.append(add_headers)
    application.router.add_get("/", pages.overview)
    application.router.add_get("/runs", pages.runs)
    application.router.add_get("/failures", pages.failures)
    application.router.add_get("/search", pages.search)
    application.router.add_get("/tasks/{task_id:-?[0-9]{1,20}}", pages.task)
    application.router.add_get("/livez", _send_live)
    folder = files("enrollgate.web") / "static"
    for name, kind in _STATIC.items():
        content = (folder / name).read_bytes()
        application.router.add_get(f"/static/{name}", partial(_send_static, content, kind))
    return application


async def _send_live(_request: web.Request) -> web.Response:
    """Answer a probe. The database has no part in it: the page itself shows that it is away."""
    return web.Response(text="ok\n")


async def _send_static(content: bytes, kind: str, _request: web.Request) -> web.Response:
    return web.Response(
        body=content, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


def is_loopback_host(host: str) -> bool:
    """Return whether the Host header names this machine, with any port."""
    return re.sub(r":[0-9]*$", "", host.lower()) in _LOOPBACK_HOSTS


def is_authorized(headers: Mapping[str, str], token: str) -> bool:
    """Return whether the token came as a Bearer token, or as the password of Basic (RFC 7617)."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    given = value.strip()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return False
        _, _, given = given.partition(":")
    elif scheme.lower() != "bearer":
        return False
    # aiohttp keeps bytes that are no UTF-8 as surrogates.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
