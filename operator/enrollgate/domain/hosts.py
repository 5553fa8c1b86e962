"""Which URLs may be contacted. The operator asks before it launches, the worker before every request and every redirect.

A URL is fit if it is absolute http or https, without user name or password, and short. Its host is allowed if the list is
empty or names it, literally or by a wildcard (`*.example.com`: the subdomains). Plain http and addresses that are not public
need the literal entry: a wildcard, or an empty list, never opens the way into the private network.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

from enrollgate.domain.reasons import Failure, Reason

MAX_URL_LENGTH = 2048
"""Characters of a course's URL, at most."""
_STRANGE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CARRIERS = (_NAT64, ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("::ffff:0:0:0/96"))
"""IPv6 networks whose last four bytes are an IPv4 address (RFC 6052, RFC 4291, RFC 2765), beside those that ipaddress knows."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(
    url: str, allowed_hosts: tuple[str, ...], *, max_length: int = MAX_URL_LENGTH
) -> None:
    """Raises Failure (InvalidCourseUrl, HostNotAllowed) unless the URL may be contacted. Resolves no names."""
    parts = _split(url, max_length)
    host = normal_host(parts.hostname or "")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    literal = is_literal(host, port, allowed_hosts)
    if allowed_hosts and not literal and not _matches_wildcard(host, allowed_hosts):
        raise Failure(Reason.HOST_NOT_ALLOWED, f"{host} is not in ENROLLGATE_ALLOWED_HOSTS")
    if literal:
        return
    if parts.scheme != "https":
        raise Failure(
            Reason.HOST_NOT_ALLOWED, f"plain http needs {host} itself in ENROLLGATE_ALLOWED_HOSTS"
        )
    address = parse_address(host)
    if (
        (address is not None and not is_public(address))
        or host == "localhost"
        or host.endswith(".localhost")
    ):
        raise Failure(
            Reason.HOST_NOT_ALLOWED, f"{host} is a private address: list it literally to allow it"
        )


def check_address(host: str, port: int, address: str, allowed_hosts: tuple[str, ...]) -> None:
    """Raises Failure if this host resolved to an address that is not public, unless the host is listed literally."""
    if is_literal(normal_host(host), port, allowed_hosts):
        return
    found = parse_address(address)
    if found is None or not is_public(found):
        raise Failure(Reason.HOST_NOT_ALLOWED, f"{host} resolves to the private address {address}")


def _split(url: str, max_length: int) -> SplitResult:
    if len(url) > max_length:
        raise Failure(
            Reason.INVALID_COURSE_URL,
            f"the URL has {len(url):,} characters, more than {max_length:,}",
        )
    if _STRANGE.search(url):
        raise Failure(
            Reason.INVALID_COURSE_URL,
            "the URL contains white space, a backslash or a control character",
        )
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Failure(
            Reason.INVALID_COURSE_URL, "the URL is malformed (its host or port)"
        ) from error
    if parts.scheme not in _DEFAULT_PORTS:
        scheme = parts.scheme[:20] or "none"
        raise Failure(
            Reason.INVALID_COURSE_URL,
            f"the URL's scheme is {scheme}: only https, or http, can be downloaded",
        )
    if not parts.hostname:
        raise Failure(Reason.INVALID_COURSE_URL, "the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise Failure(Reason.INVALID_COURSE_URL, "the URL carries a user name or a password")
    return parts


def normal_host(host: str) -> str:
    """Lower case, without the dot at the end and the brackets; an IP address in its one usual spelling."""
    host = host.lower().strip("[]").rstrip(".")
    address = parse_address(host)
    return str(address) if address is not None else host


def parse_address(host: str) -> Address | None:
    """The IP address that a host is, in any spelling that a resolver takes (`2130706433`, `0x7f.1`); None if a name."""
    try:
        address: Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", host):
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: Address) -> bool:
    """Whether the address is one of the open internet (not private, loopback, link-local, multicast or reserved)."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = (
            address.ipv4_mapped
            or address.sixtofour
            or (address.teredo[1] if address.teredo else None)
        )
        if any(address in network for network in _CARRIERS):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
    return address.is_global and not address.is_multicast


def is_literal(host: str, port: int, allowed_hosts: tuple[str, ...]) -> bool:
    """Whether the list names this very host, with this port or with none."""
    for entry in allowed_hosts:
        name, listed_port = _split_entry(entry)
        if normal_host(name) == host and listed_port in (None, port):
            return True
    return False


def _split_entry(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", entry)
    if match is None:  # a bare IPv6 address
        return entry, None
    return match[1], int(match[2]) if match[2] else None


def _matches_wildcard(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    return any(
        entry.startswith("*.") and host.endswith(entry[1:].lower()) for entry in allowed_hosts
    )
