"""What a child process inherits of our environment: little, since the rest may hold secrets."""

from collections.abc import Mapping

_INHERITED = frozenset(
    {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {
        name
        for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        for name in (proxy, proxy.lower())
    }
)


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for programs, certificates, proxies, language and time zone."""
    return {
        name: value
        for name, value in environ.items()
        if name in _INHERITED or name.startswith("LC_")
    }
