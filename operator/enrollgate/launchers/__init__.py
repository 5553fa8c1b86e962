"""Start, observe and stop runs: as local processes, or as Kubernetes Jobs.

    base         the `Launcher` protocol, the only thing that the reconciler knows
    local/       one supervised process per run, on one machine
    kubernetes/  one Job per run

A launcher never decides, and never reads the database. `control` and `commands` may import this
package; it imports `settings`, `domain` and `common`.
"""

from enrollgate.launchers.base import (
    Launcher,
    LauncherRefused,
    LauncherUnavailable,
    RunEvent,
    RunEventType,
)

__all__ = [
    "Launcher",
    "LauncherRefused",
    "LauncherUnavailable",
    "RunEvent",
    "RunEventType",
]
