"""Where runs live: local child processes, or Kubernetes Jobs. The reconciler knows only the `Launcher` protocol.

A launcher is told names and orders, and tells what it sees. It never decides, and it never reads the database.
"""

from enrollgate.launchers.base import (
    Launcher,
    LauncherRefused,
    LauncherUnavailable,
    LeaderElectionForbidden,
    RunEvent,
    RunEventType,
)

__all__ = [
    "Launcher",
    "LauncherRefused",
    "LauncherUnavailable",
    "LeaderElectionForbidden",
    "RunEvent",
    "RunEventType",
]
