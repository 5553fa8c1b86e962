"""Where runs live: local child processes, or Kubernetes Jobs. The reconciler knows only the `Launcher` protocol.

A launcher is told names and orders, and tells what it sees. It never decides, and it never reads the database.
"""

from enrollgate.launchers.protocol import (
    Launcher,
    LauncherRefused,
    LauncherUnavailable,
    Story,
    StoryKind,
    TurnRefused,
)

__all__ = [
    "Launcher",
    "LauncherRefused",
    "LauncherUnavailable",
    "Story",
    "StoryKind",
    "TurnRefused",
]
