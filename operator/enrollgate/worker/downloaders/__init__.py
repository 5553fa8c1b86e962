"""What brings a course to scratch. One module for each kind."""

import threading

from enrollgate.worker.course import Downloader
from enrollgate.worker.order import WorkOrder

__all__ = ["build_downloader"]


def build_downloader(order: WorkOrder, stop: threading.Event) -> Downloader:
    """Build the downloader that the settings name. `stop` ends whatever it does. Only it is imported: yt-dlp takes a second to load."""
    if order.settings.downloader == "command":
        from enrollgate.worker.downloaders.command import Command

        return Command(order, stop)
    from enrollgate.worker.downloaders.yt_dlp import YtDlp

    return YtDlp(order, stop)
