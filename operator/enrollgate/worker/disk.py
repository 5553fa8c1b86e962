"""What an error of the file system means to a run."""

import errno
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def scratch_failure(error: OSError) -> Failure:
    """What it means that a scratch file could not be read or written."""
    if error.errno in _REFUSED | {errno.ENOTDIR, errno.EEXIST}:
        message = f"the scratch folder (in ENROLLGATE_WORK_DIR; in a pod /scratch) cannot be used: {_words(error)}"
        return Failure(Reason.CONFIGURATION_ERROR, message)
    reason = Reason.DISK_FULL if error.errno in _FULL else Reason.WORKER_CRASHED
    return Failure(reason, f"in the scratch folder: {_words(error)}")


def destination_failure(error: OSError) -> Failure:
    """What it means that a file could not be delivered, or a delivered one not be read."""
    message = f"at the destination: {_words(error)}"
    if error.errno in _FULL:
        return Failure(Reason.DISK_FULL, message)
    if error.errno == errno.ENOTDIR:
        return Failure(Reason.DESTINATION_NOT_FOUND, message)
    return Failure(
        Reason.DESTINATION_AUTH if error.errno in _REFUSED else Reason.DESTINATION_UNAVAILABLE,
        message,
    )


def _words(error: OSError) -> str:
    where = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    return f"{where}{error.strerror or error.__class__.__name__}"
