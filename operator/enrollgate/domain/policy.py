"""The settings that decisions depend on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of waiting, of runs at once and of repeated runs.

    `enrollment_timeout` is in seconds. `max_lost_runs` is how many times a task whose run
    disappeared is launched again before it fails as `Lost`. `launch_timeout` is the seconds
    for which a refused launch is tried again before the task fails as `LaunchRefused`. Without
    `allowed_hosts`, every host is allowed.
    """

    enrollment_timeout: float = 300.0
    max_concurrent_runs: int = 4
    max_lost_runs: int = 3
    launch_timeout: float = 86400.0
    allowed_hosts: tuple[str, ...] = ()
