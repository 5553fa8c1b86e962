"""The settings that decisions depend on."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """When holds are opened, and how they end.

    `threshold` is the number of tasks in a row that must fail for a reason that may concern one
    course only. `pause` and `longest_pause` are the seconds before the first probe and between two
    probes at most; `limit` those after which the held tasks fail. With `keeps_opener`, the task
    whose failure opens a hold stays enrolled. A hold closes when `enough` runs would be allowed.
    """

    is_on: bool = True
    threshold: int = 3
    pause: float = 300.0
    longest_pause: float = 21600.0
    limit: float = 604_800.0
    keeps_opener: bool = False
    enough: int = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of waiting, of runs at once and of repeated runs.

    `enrollment_timeout` is in seconds. `max_lost_runs` is how many times a task whose run
    disappeared is launched again before it fails as `Lost`. `launch_timeout` is the seconds
    for which a refused launch is tried again before the task fails as `LaunchRefused`. Without
    `allowed_hosts`, every host is allowed. `max_runs_per_account` and `max_runs_per_host` are 0 if
    there is no such limit.
    """

    enrollment_timeout: float = 300.0
    max_concurrent_runs: int = 4
    max_lost_runs: int = 3
    launch_timeout: float = 86400.0
    allowed_hosts: tuple[str, ...] = ()
    max_runs_per_account: int = 0
    max_runs_per_host: int = 0
    holds: HoldPolicy = field(default_factory=HoldPolicy)
