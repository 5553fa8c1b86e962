"""Which headers a request may carry to another site than the one they are meant for.

An extractor gives headers for a lecture, and yt-dlp sends them with every request for it: to the
hosts that a playlist names, and to those that a server redirects to. A token among them must not
reach those. `Referer` is cut as browsers do by default
(https://www.w3.org/TR/referrer-policy/, "strict-origin-when-cross-origin").
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from enrollgate.domain.hosts import normal_host

# Headers that say nothing about the account. All others are left out for another site.
_NEUTRAL = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "content-length",
        "content-type",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "origin",
        "pragma",
        "range",
        "referer",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "user-agent",
        "x-requested-with",
    }
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def headers_for_url(url: str, headers: Mapping[str, str], meant_for: str) -> dict[str, str]:
    """Return the headers that may go to `url`, of a request that was made for `meant_for`.

    All of them, if that is the same site or the same host by https; else only the neutral ones.
    """
    target, source = _origin(url), _origin(meant_for)
    is_upgrade = (source, target) == (("http", source[1], 80), ("https", source[1], 443))
    kept = {
        name: value
        for name, value in headers.items()
        if target == source or is_upgrade or name.lower() in _NEUTRAL
    }
    for name in [each for each in kept if each.lower() == "referer"]:
        referer = cut_referer(kept.pop(name), url)
        if referer:
            kept[name] = referer
    return kept


def cut_referer(referer: str, url: str) -> str:
    """Return what a request for `url` may say of the page it comes from; empty: nothing.

    The whole address to the same origin, the origin to another, nothing from https to http.
    """
    origin, target = _origin(referer), _origin(url)
    if origin[0] not in _DEFAULT_PORTS or (origin[0] == "https" and target[0] == "http"):
        return ""
    parts = urlsplit(referer)
    host = parts.netloc.rpartition("@")[2]
    if origin != target:
        return f"{parts.scheme}://{host}/"
    return parts._replace(netloc=host, fragment="").geturl()


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port, all empty if the URL is malformed: it is refused later."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None
    return parts.scheme, normal_host(parts.hostname or ""), port
