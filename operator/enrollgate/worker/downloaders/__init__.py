"""Downloaders: they bring the items of a course to scratch.

`yt_dlp` is the default and `command` runs the user's own program. Both implement
`enrollgate.worker.course.Downloader`. Only `enrollgate.worker.work` imports this package. The
modules here may import the worker's other modules, settings, domain and common.
"""

import sys
import threading
import time
from collections.abc import Callable

from enrollgate.worker.course import Downloader
from enrollgate.worker.order import WorkOrder

__all__ = ["build_downloader"]

# yt-dlp loads each HTTP library that it finds, for request handlers that we replace.
_UNUSED = ("curl_cffi", "requests", "urllib3", "websockets")


def build_downloader(
    order: WorkOrder,
    stop: threading.Event,
    monotonic: Callable[[], float] = time.monotonic,
) -> Downloader:
    """Build the downloader that the settings name. `stop` ends it soon and cleanly.

    `monotonic` gives seconds.

    Only the chosen module is imported: yt-dlp takes a second to load.
    """
    if order.settings.downloader == "command":
        from enrollgate.worker.downloaders.command import Command

        return Command(order, stop)
    loaded = {name: sys.modules.get(name) for name in _UNUSED}
    # A module that is None cannot be imported: https://docs.python.org/3/reference/import.html
    sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]  # typeshed omits None
    try:
        from enrollgate.worker.downloaders.yt_dlp import YtDlp
    finally:
        for name, module in loaded.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module

    return YtDlp(order, stop, monotonic)
