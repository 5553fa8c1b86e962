"""The knobs that decisions depend on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait, how much at once, how often again. Times in seconds."""

    enrollment_timeout: float = 300.0
    max_concurrent_runs: int = 4
    max_lost_runs: int = 3
    """How often a task whose run vanished is launched again before it fails as `Lost`."""
    allowed_hosts: tuple[str, ...] = ()
