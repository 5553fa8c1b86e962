"""Where courses go. One module for each kind; `make_destination` reads the setting."""

import threading
from pathlib import Path

from enrollgate.domain.order import WorkOrder
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Destination
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.identity import course_key

__all__ = ["make_destination"]


def make_destination(order: WorkOrder, stop: threading.Event) -> Destination:
    """The destination that `order.destination` names. Raises Failure (ConfigurationError) for one that does not exist.

    `stop` ends whatever it waits for.
    """
    scheme, _, rest = order.destination.partition(":")
    if scheme == "drive" and rest:
        from enrollgate.worker.destinations.drive import open_drive

        return open_drive(order, rest, stop)
    if scheme != "directory":
        message = f"ENROLLGATE_DESTINATION={scheme}: is unknown: write directory:/path or drive:<folder id>"
        raise Failure(Reason.CONFIGURATION_ERROR, message)
    root = Path(rest)
    if not root.is_absolute():
        raise Failure(Reason.CONFIGURATION_ERROR, "ENROLLGATE_DESTINATION=directory: needs an absolute path")
    return Directory(root, order.task_id, course_key(order.course_url))
