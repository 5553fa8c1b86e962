"""The error for a request that must not be sent, or an answer that must not be read on."""

from enrollgate.domain.reasons import Failure
from enrollgate.worker.downloaders.yt_dlp_compat import RequestError


class RequestRefused(RequestError):  # type: ignore[misc]  # yt-dlp has no types
    """A request or an answer that was refused. It carries the Failure through yt-dlp's errors."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, cause=failure)
        self.failure = failure
