"""The account's cookies, copied to scratch: yt-dlp writes its cookie file back, which a mounted Secret does not allow."""

import os
from pathlib import Path

from enrollgate.domain.account import DEFAULT_COOKIES_NAME
from enrollgate.domain.order import WorkOrder
from enrollgate.domain.reasons import Failure, Reason


def copy_cookies(order: WorkOrder) -> Path | None:
    """A copy (mode 0600) of the account's cookies file, or of the default one; None if there is neither.

    Raises Failure (CookiesUnreadable).
    """
    if order.cookies_dir is None:
        return None
    for name in (order.cookies_name, DEFAULT_COOKIES_NAME):
        source = order.cookies_dir / Path(name).name
        try:
            content = source.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Failure(Reason.COOKIES_UNREADABLE, f"{source.name}: {error.strerror}") from error
        copy = order.scratch_dir / "cookies.txt"
        copy.unlink(missing_ok=True)
        handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        return copy
    return None
