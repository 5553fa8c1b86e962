"""Which URLs may be contacted.

The operator checks a course's URL before it launches a run; the worker checks every request and
every redirect. A URL must be absolute http or https, without user name and password, and not too
long. Its host is allowed if the list of hosts is empty, or names the host or a wildcard for it
(`*.example.com`: the subdomains). Plain http and private addresses need the host itself in the
list: neither a wildcard nor an empty list opens the private network.
"""

import contextlib
import ipaddress
import re
import socket
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from enrollgate.domain.reasons import Failure, Reason

# Characters of a course's URL.
MAX_URL_LENGTH = 2048
_FORBIDDEN_CHARACTERS = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# IPv6 networks whose last four bytes are an IPv4 address (RFC 6052, RFC 4291, RFC 2765), besides
# those that ipaddress knows.
_IPV4_IN_IPV6 = tuple(
    ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")
)
# Networks that are not public, besides those that ipaddress knows from IANA's registries.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b:1::/48",  # local-use translation, RFC 8215
        "fec0::/10",  # site-local, deprecated by RFC 3879
        "5f00::/16",  # segment routing, RFC 9602
        "3fff::/20",  # documentation, RFC 9637
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.88.99.0/24",  # 6to4 relays, deprecated by RFC 7526
        "168.63.129.16/32",  # Azure's platform services (its documentation: "168.63.129.16")
    )
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(
    url: str, allowed_hosts: tuple[str, ...], *, max_length: int = MAX_URL_LENGTH
) -> None:
    """Check that the URL may be contacted, without resolving its host.

    Raises Failure (InvalidCourseUrl, HostNotAllowed).
    """
    parts = _parse(url, max_length)
    host = normal_host(parts.hostname or "")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    if is_listed(host, port, allowed_hosts):
        return
    matches_wildcard = any(
        entry.startswith("*.") and host.endswith(entry[1:].lower()) for entry in allowed_hosts
    )
    if allowed_hosts and not matches_wildcard:
        raise Failure(Reason.HOST_NOT_ALLOWED, f"{host} is not in ENROLLGATE_ALLOWED_HOSTS")
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
            Reason.HOST_NOT_ALLOWED, f"{host} is a private address: list it itself to allow it"
        )


def check_address(host: str, port: int, address: str, allowed_hosts: tuple[str, ...]) -> None:
    """Check that the address that the host resolved to is public, or the host itself is listed.

    Raises Failure (HostNotAllowed).
    """
    if is_listed(normal_host(host), port, allowed_hosts):
        return
    found = parse_address(address)
    if found is None or not is_public(found):
        raise Failure(Reason.HOST_NOT_ALLOWED, f"{host} resolves to the private address {address}")


def _parse(url: str, max_length: int) -> SplitResult:
    if len(url) > max_length:
        raise Failure(
            Reason.INVALID_COURSE_URL,
            f"the URL has {len(url):,} characters, more than {max_length:,}",
        )
    if _FORBIDDEN_CHARACTERS.search(url):
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
    """Return the host in lower case, without brackets and the final dot.

    An IP address is returned in its usual form, an internationalized name in its ASCII form
    (`xn--...`, RFC 3490), so that both spellings of a host are equal.
    """
    host = host.lower().strip("[]").rstrip(".")
    if not host.isascii():
        with contextlib.suppress(UnicodeError):
            host = host.encode("idna").decode()
    address = parse_address(host)
    return str(address) if address is not None else host


@lru_cache(maxsize=1000)
def host_spellings(host: str) -> tuple[str, ...]:
    """Return a normal host as it is, as `xn--...`, and in the letters of its language.

    MySQL computes the host of a row, and cannot turn one spelling into the other.
    """
    found = {host: None}
    with contextlib.suppress(UnicodeError):
        found[host.encode("idna").decode()] = None
    with contextlib.suppress(UnicodeError):
        found[host.encode().decode("idna")] = None
    return tuple(found)


def parse_address(host: str) -> Address | None:
    """Return the host as an IP address, in any form that a resolver accepts; None if it is a name.

    `2130706433` and `0x7f.1` are such forms.
    """
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
    """Return whether the address is of the public internet.

    Private, loopback, link-local, multicast and reserved addresses are not.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = (
            address.ipv4_mapped
            or address.sixtofour
            or (address.teredo[1] if address.teredo else None)
        )
        if any(address in network for network in _IPV4_IN_IPV6):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def is_listed(host: str, port: int, allowed_hosts: tuple[str, ...]) -> bool:
    """Return whether the list names the host itself, with this port or without a port."""
    for entry in allowed_hosts:
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", entry)
        # Only an IPv6 address without brackets does not match.
        name, listed_port = match.groups() if match else (entry, None)
        if normal_host(name) == host and (listed_port is None or int(listed_port) == port):
            return True
    return False
