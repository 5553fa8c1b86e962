"""The worker: one attempt at one course.

It downloads the course, delivers it item by item, and reports how that went.

A `WorkOrder` holds all that it needs. It knows nothing of databases, clusters or enrollment: that
the gate is open is the operator's decision. It may import `common`, `domain` and `settings`; of the
rest, only `commands` imports it.

Nothing is imported here: `file_check` runs as a process of its own, and must start quickly.
"""
