"""What a child process inherits of our environment: a short list, since a password may be in the rest."""

from collections.abc import Mapping

_PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {
        name
        for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        for name in (proxy, proxy.lower())
    }
)


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Where programs, certificates and proxies are, and which language and time zone are meant."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }
