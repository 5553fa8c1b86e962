"""Turn an error of the file system into the failure of a run.

Scratch and a directory destination need different reasons for the same error: the first is ours,
the second the user's.
"""

import errno
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def scratch_failure(error: OSError) -> Failure:
    """Build the failure for a scratch file that cannot be read or written."""
    if error.errno in _REFUSED | {errno.ENOTDIR, errno.EEXIST}:
        folder = "the scratch folder (in ENROLLGATE_WORK_DIR; in a pod /scratch)"
        message = f"{folder} cannot be used: {_describe(error)}"
        return Failure(Reason.CONFIGURATION_ERROR, message)
    is_full = error.errno in _NO_SPACE | {errno.EFBIG}
    reason = Reason.DISK_FULL if is_full else Reason.WORKER_CRASHED
    return Failure(reason, f"in the scratch folder: {_describe(error)}")


def destination_failure(error: OSError) -> Failure:
    """Build the failure for a file at the destination that cannot be read or written."""
    if error.errno in _NO_SPACE:
        # Every further file meets it, of every task: so the destination is held.
        reason = Reason.DESTINATION_QUOTA
    elif error.errno == errno.EFBIG:
        reason = Reason.DISK_FULL
    elif error.errno == errno.ENOTDIR:
        reason = Reason.DESTINATION_NOT_FOUND
    elif error.errno in _REFUSED:
        reason = Reason.DESTINATION_AUTH
    else:
        reason = Reason.DESTINATION_UNAVAILABLE
    return Failure(reason, f"at the destination: {_describe(error)}")


def _describe(error: OSError) -> str:
    where = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    return f"{where}{error.strerror or error.__class__.__name__}"
