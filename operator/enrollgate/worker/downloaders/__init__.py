"""What brings a course to scratch. One module for each kind; `make_downloader` reads the setting."""

import threading

from enrollgate.domain.order import WorkOrder
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Downloader

__all__ = ["make_downloader"]


def make_downloader(order: WorkOrder, stop: threading.Event) -> Downloader:
    """The downloader that `order.downloader` names. Each is imported when it is wanted: yt-dlp takes a second to load."""
    if order.downloader == "yt-dlp":
        from enrollgate.worker.downloaders.yt_dlp import YtDlp

        return YtDlp(order)
    if order.downloader == "command":
        from enrollgate.worker.downloaders.command import Command

        return Command(order, stop)
    raise Failure(Reason.CONFIGURATION_ERROR, f"ENROLLGATE_DOWNLOADER={order.downloader} is neither yt-dlp nor command")
