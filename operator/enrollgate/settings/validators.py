"""What the settings must satisfy beyond their types.

Each check raises ValueError, whose message tells the person who set the value what to write.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from enrollgate.domain.task import Statuses

_HOST = re.compile(
    r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
)
# The unit and the maximum of an upload request, in bytes. A very large chunk is one long request.
_CHUNK_UNIT = 256 * 1024
_MAX_CHUNK = 256 * 1024 * 1024


def check_endpoint(value: str) -> str:
    """Return the URL with one slash at its end, so that Drive's paths can follow it."""
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.query
        or parts.fragment
    ):
        raise ValueError("write an http:// or https:// URL without user name and query")
    return value.rstrip("/") + "/"


def check_chunk(value: int) -> None:
    """Check the size of an upload request, in bytes. Drive takes only multiples of 256 KiB."""
    if not _CHUNK_UNIT <= value <= _MAX_CHUNK or value % _CHUNK_UNIT:
        raise ValueError("write a multiple of 256KiB, 256MiB at most, such as 8MiB")


def check_host(text: str) -> str:
    """Check that the text is a host, or a host and a port.

    Return it, an internationalized name in its ASCII form (RFC 3490).
    """
    labels = text.split(".")
    text = ".".join(label if label.isascii() else label.encode("idna").decode() for label in labels)
    host, _, port = (
        text.rpartition(":")
        if re.search(r"(?<![:\[]):\d+$", text) and text.count(":") == 1
        else (text, "", "")
    )
    if port and not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} has no valid port")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise ValueError(
                f"{text!r} is not a host: write a host name, *.domain or an IP address, "
                "without scheme and path"
            ) from None
    return text


def check_languages(languages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the languages of subtitles as tags in lower case, or `all` or `none` alone.

    A tag begins with the language, and a region or script may follow (RFC 5646): `en`, `pt-BR`.
    """
    tags = tuple(dict.fromkeys(each.lower().replace("_", "-") for each in languages))
    words = {"all", "none"} & set(tags)
    if not tags or (words and len(tags) > 1):
        raise ValueError("write `all`, `none` or languages such as `en,vi`")
    for tag in tags:
        if tag not in words and not re.fullmatch(r"[a-z]{2,8}(-[a-z0-9]{1,8})*", tag):
            raise ValueError(f"{tag!r} is no language; write `all`, `none` or such as `en,pt-BR`")
    return tags


def check_statuses(statuses: Statuses) -> None:
    """Check that each configured status can be stored and has one meaning."""
    for status in statuses.known:
        if not status.strip() or status != status.strip() or len(status) > 64:
            raise ValueError(
                f"the status {status!r} in ENROLLGATE_STATUS_* must have 1 to 64 characters, "
                "without spaces around them"
            )
    if not statuses.waiting:
        raise ValueError("ENROLLGATE_STATUS_WAITING is empty: name at least one waiting status")
    lower = [status.lower() for status in statuses.known]
    twice = sorted({status for status in lower if lower.count(status) > 1})
    if twice:
        raise ValueError(
            f"the status {twice[0]!r} has two meanings in ENROLLGATE_STATUS_*: "
            "use a different status for each"
        )


def check_command(downloader: str, command: tuple[str, ...]) -> None:
    """Check that a command is set only if it is used, and has its placeholders."""
    if downloader != "command":
        if command:
            raise ValueError(
                "ENROLLGATE_DOWNLOAD_COMMAND is set but unused: "
                "set ENROLLGATE_DOWNLOADER=command, too"
            )
        return
    if not command:
        raise ValueError("ENROLLGATE_DOWNLOADER=command needs ENROLLGATE_DOWNLOAD_COMMAND: set it")
    text = " ".join(command)
    for placeholder in ("{course_url}", "{output_dir}"):
        if placeholder not in text:
            raise ValueError(f"ENROLLGATE_DOWNLOAD_COMMAND does not contain {placeholder}: add it")
    unknown = set(re.findall(r"\{([a-z_]+)\}", text)) - {"course_url", "output_dir"}
    if unknown:
        raise ValueError(
            f"ENROLLGATE_DOWNLOAD_COMMAND contains {{{sorted(unknown)[0]}}}: "
            "only {course_url} and {output_dir} are known"
        )
