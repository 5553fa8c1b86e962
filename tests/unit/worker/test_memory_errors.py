"""Memory that the kernel refuses is the run's own failure, not one of the site."""

import sys

from yt_dlp.utils import DownloadError

from enrollgate.domain.reasons import Reason
from enrollgate.worker.downloaders.site_errors import classify


def test_memory_refused_within_yt_dlp_is_no_fault_of_the_site() -> None:
    try:
        raise MemoryError
    except MemoryError:
        error = DownloadError("ERROR: cannot parse the page", sys.exc_info())
    assert classify(error).reason is Reason.OOM_KILLED
