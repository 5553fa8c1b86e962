"""Copy the account's cookies to scratch.

yt-dlp writes its cookies file back, which a mounted Secret does not allow.

Only lines that are cookies are copied. yt-dlp prints lines that it cannot read to standard error,
with their values.
"""

import re
import sys
from pathlib import Path

from enrollgate.common.files import write_private
from enrollgate.domain.account import DEFAULT_COOKIES_NAME
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.order import WorkOrder

_HTTP_ONLY = "#HttpOnly_"
# Seven fields between tabs; the fifth, the expiry, is empty or a number.
_COOKIE = re.compile(r"((?:[^\t]*\t){4})((?:-?[0-9]+(?:\.[0-9]+)?)?)(\t[^\t]*\t[^\t]*)")


def copy_cookies(order: WorkOrder) -> Path | None:
    """Copy the account's cookies file, or else the default one, with mode 0600.

    Return None if there is neither.

    Raises Failure (CookiesUnreadable).
    """
    if order.settings.cookies_dir is None:
        return None
    for name in (order.cookies_name, DEFAULT_COOKIES_NAME):
        source = order.settings.cookies_dir / Path(name).name
        try:
            content = _cookie_lines(source.name, source.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Failure(Reason.COOKIES_UNREADABLE, f"{source.name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise Failure(Reason.COOKIES_UNREADABLE, f"{source.name} is not text") from error
        copy = order.scratch_dir / "cookies.txt"
        write_private(copy, content)
        return copy
    return None


def describe_missing_cookies(order: WorkOrder) -> str:
    """Return which files an account without cookies would have had. No name shows the account."""
    names = f"{Path(order.cookies_name).name} and {DEFAULT_COOKIES_NAME}"
    if order.settings.cookies_dir is None:
        return f"ENROLLGATE_COOKIES_DIR is not set, so {names} were not looked for"
    return f"ENROLLGATE_COOKIES_DIR has neither of {names}"


def _cookie_lines(name: str, text: str) -> str:
    """Return a cookies file with only the lines that are cookies.

    Other lines are skipped, and named in the log by their number, never by their content. Browser
    extensions write -1 as the expiry of a session cookie, which yt-dlp would refuse.
    """
    cookies, skipped = list[str](), list[int]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or (line.startswith("#") and not line.startswith(_HTTP_ONLY)):
            continue
        if cookie := _COOKIE.fullmatch(line):
            expiry = "0" if cookie[2].startswith("-") else cookie[2]
            cookies.append(cookie[1] + expiry + cookie[3])
        else:
            skipped.append(number)
    if skipped and not cookies:
        raise Failure(
            Reason.COOKIES_UNREADABLE,
            f"{name} holds no line in the Netscape format (seven fields between tabs)",
        )
    if skipped:
        first = ", ".join(map(str, skipped[:10]))
        sys.stderr.write(f"{name}: {len(skipped)} lines are no cookies and are skipped: {first}\n")
    return "\n".join(["# Netscape HTTP Cookie File", *cookies, ""])
