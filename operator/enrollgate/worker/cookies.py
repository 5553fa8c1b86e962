"""Copy the account's cookies to scratch.

yt-dlp writes its cookies file back, which a mounted Secret does not allow. What it writes are the
cookies that the site renewed during the attempt: the next attempt of the run starts with them.

Only lines that are cookies are copied. yt-dlp prints lines that it cannot read to standard error,
with their values.
"""

import hashlib
import sys
from pathlib import Path

from enrollgate.common.cookies_file import NotCookies, parse_cookies, read_cookies
from enrollgate.common.files import write_private
from enrollgate.domain.account import DEFAULT_COOKIES_NAME
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.order import WorkOrder

_HEADER = "# Netscape HTTP Cookie File"
_REMEDY = (
    "Export the cookies again in the Netscape (cookies.txt) format, for example with the browser "
    "extension `Get cookies.txt LOCALLY`."
)


def copy_cookies(order: WorkOrder) -> Path | None:
    """Copy the account's cookies file, or else the default one, with mode 0600.

    What the site renewed in an earlier attempt comes last, so that it wins, unless the file has
    changed since. Return None if there is no file.

    Raises Failure (CookiesUnreadable).
    """
    if order.settings.cookies_dir is None:
        return None
    for name in (order.cookies_name, DEFAULT_COOKIES_NAME):
        source = order.settings.cookies_dir / Path(name).name
        try:
            text = read_cookies(source)
            lines, skipped = parse_cookies(text)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Failure(Reason.COOKIES_UNREADABLE, f"{source.name}: {error.strerror}") from error
        except NotCookies as error:
            message = f"{source.name} {error}"
            raise Failure(Reason.COOKIES_UNREADABLE, message, remedy=_REMEDY) from error
        if skipped:
            first = ", ".join(map(str, skipped[:10]))
            count = len(skipped)
            sys.stderr.write(
                f"{source.name}: {count} lines are no cookies and are skipped: {first}\n"
            )
        copy, mark = order.scratch_dir / "cookies.txt", order.scratch_dir / "cookies.source"
        digest = hashlib.sha256(f"{source.name}\n{text}".encode(errors="replace")).hexdigest()
        try:
            if mark.read_text(encoding="utf-8") == digest:
                lines += parse_cookies(read_cookies(copy))[0]
        except (OSError, NotCookies, UnicodeDecodeError):
            pass  # no earlier attempt, or it left nothing that can be used
        write_private(copy, "\n".join([_HEADER, *lines, ""]))
        write_private(mark, digest)
        return copy
    return None


def describe_missing_cookies(order: WorkOrder) -> str:
    """Return which files an account without cookies would have had. No name shows the account."""
    names = f"{Path(order.cookies_name).name} and {DEFAULT_COOKIES_NAME}"
    if order.settings.cookies_dir is None:
        return f"ENROLLGATE_COOKIES_DIR is not set, so {names} were not looked for"
    return f"ENROLLGATE_COOKIES_DIR has neither of {names}"
