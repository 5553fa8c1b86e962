"""Where courses go. One module for each kind; `make_destination` reads the setting."""

from pathlib import Path

from enrollgate.domain.order import WorkOrder
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Destination
from enrollgate.worker.destinations.directory import Directory

__all__ = ["make_destination"]


def make_destination(order: WorkOrder) -> Destination:
    """The destination that `order.destination` names. Raises Failure (ConfigurationError) for one that does not exist."""
    scheme, _, rest = order.destination.partition(":")
    if scheme != "directory":
        raise Failure(Reason.CONFIGURATION_ERROR, f"ENROLLGATE_DESTINATION={scheme}: is unknown: write directory:/path")
    root = Path(rest)
    if not root.is_absolute():
        raise Failure(Reason.CONFIGURATION_ERROR, "ENROLLGATE_DESTINATION=directory: needs an absolute path")
    return Directory(root, order.task_id)
