"""The run itself: download a course and deliver it, item by item, and report how it went.

It is told everything in a `WorkOrder` and knows nothing of databases, clusters or enrollment; that the gate was open is the
operator's word. Of this project it imports the domain only.
"""

from enrollgate.worker.work import work, write_report

__all__ = ["work", "write_report"]
