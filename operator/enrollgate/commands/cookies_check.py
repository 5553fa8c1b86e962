"""What `enrollgate doctor` says of the cookies files: missing, unreadable, expired, unused.

Files are named by their own names, which do not show the account.
"""

import re
from collections.abc import Collection
from pathlib import Path

from enrollgate.common.cookies_file import NotCookies, last_expiry, parse_cookies, read_cookies
from enrollgate.common.redaction import redact
from enrollgate.domain.account import DEFAULT_COOKIES_NAME, cookies_name
from enrollgate.domain.check import Check, failed, ok, warning

# Seconds before the last cookie of a file expires, in which that is a warning.
_SOON = 3 * 86400.0
_ACCOUNT_FILE = re.compile(r"cookies-[0-9a-f]{32}\.txt")
_NAMES = 5


def check_cookies_files(
    files: list[Path],
    emails: Collection[str] | None,
    open_emails: Collection[str],
    now: float,
) -> Check:
    """Check the contents of cookies files, and whose they are.

    `emails` are the accounts of all tasks, None if they are not known; `open_emails` those of tasks
    that wait or run. `now` is in seconds since the epoch.
    """
    unreadable, expired, soon = list[str](), list[str](), list[str]()
    for file in files:
        name = redact(file.name, 100)
        try:
            cookies, skipped = parse_cookies(read_cookies(file))
        except (OSError, NotCookies) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            unreadable.append(f"{name} {reason}")
            continue
        if skipped:
            lines = ", ".join(map(str, skipped[:_NAMES]))
            unreadable.append(f"{name} has lines that are no cookies: {lines}")
        last = last_expiry(cookies)
        if last <= now:
            expired.append(name)
        elif last <= now + _SOON:
            soon.append(f"{name} in {(last - now) / 3600:.0f} hours")
    known = None if emails is None else {cookies_name(email) for email in emails}
    unused = [
        redact(file.name, 100)
        for file in files
        if file.name != DEFAULT_COOKIES_NAME
        and not (_ACCOUNT_FILE.fullmatch(file.name) and (known is None or file.name in known))
    ]
    names = {file.name for file in files}
    missing = sorted({cookies_name(email) for email in open_emails} - names)
    if DEFAULT_COOKIES_NAME in names:  # it serves the accounts without a file of their own
        missing = []
    export = "export the cookies of these accounts again"
    if expired:
        return failed("cookies", f"all cookies have expired: {_listed(expired)}", export)
    if unreadable:
        return failed("cookies", _listed(unreadable), f"{export}, in the Netscape format")
    if missing:
        problem = f"accounts of open tasks have no file: {_listed(missing)}"
        remedy = "if the course site needs a login, export their cookies to files of these names"
        return warning("cookies", problem, remedy)
    if unused:
        remedy = "compute the names again as docs/settings.md says, or remove the files"
        return warning("cookies", f"no task's account has these files: {_listed(unused)}", remedy)
    if soon:
        return warning("cookies", f"the last cookies expire soon: {_listed(soon)}", export)
    return ok("cookies", f"{len(files)} file(s), none has expired")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
