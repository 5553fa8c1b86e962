"""Turn what yt-dlp raises into Failures, at the one border between yt-dlp and our code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from yt_dlp.utils import DownloadCancelled, YoutubeDLError

from enrollgate.common.redaction import redacted_traceback
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.site_errors import classify

# What yt-dlp's extractors raise, unwrapped, if a site is not what they were written for any more.
EXTRACTOR_BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def errors_as_failures() -> Iterator[None]:
    """Raise Failure instead of any error of yt-dlp's. Failures pass unchanged.

    An extractor's bug gets its traceback, without secrets, on standard error: it concerns one
    lecture and must not end the run.
    """
    try:
        yield
    except Failure:
        raise
    except DownloadCancelled as error:
        message = "asked to stop; the partial file is kept for the next attempt"
        raise Failure(Reason.STOPPED, message) from error
    except (YoutubeDLError, OSError) as error:
        failure = classify(error)
        if failure.reason is Reason.UNSUPPORTED_COURSE:
            sys.stderr.write(f"yt-dlp: {failure.message}\n")
        raise failure from error
    except EXTRACTOR_BUGS as error:
        sys.stderr.write(redacted_traceback(error))
        message = f"yt-dlp's extractor for this site failed ({type(error).__name__})"
        remedy = "Update yt-dlp: a newer version may fix it."
        raise Failure(Reason.UNSUPPORTED_COURSE, message, remedy=remedy) from error
