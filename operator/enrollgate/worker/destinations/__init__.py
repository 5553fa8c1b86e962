"""Where courses go: one module or package for each implementation of `course.Destination`."""

import threading

from enrollgate.domain.destination import DriveDestination
from enrollgate.worker.course import Destination
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.identity import course_key
from enrollgate.worker.order import WorkOrder

__all__ = ["build_destination"]


def build_destination(order: WorkOrder, stop: threading.Event) -> Destination:
    """Build the destination that the settings name. Once `stop` is set, it ends soon."""
    destination = order.settings.destination
    if isinstance(destination, DriveDestination):
        from enrollgate.worker.destinations.drive import open_drive

        return open_drive(order, destination.folder_id, stop)
    return Directory(destination.path, order.task_id, course_key(order.course_url), stop)
