"""Builds the limits of decisions from the settings."""

from enrollgate.domain.policy import HoldPolicy, Policy
from enrollgate.settings.operator import Settings


def build_policy(settings: Settings) -> Policy:
    """Build the limits that decisions depend on."""
    return Policy(
        enrollment_timeout=settings.enrollment_timeout,
        max_concurrent_runs=settings.max_concurrent_runs,
        max_lost_runs=settings.max_lost_runs,
        launch_timeout=settings.launch_timeout,
        allowed_hosts=settings.allowed_hosts,
        max_runs_per_account=settings.max_runs_per_account,
        max_runs_per_host=settings.max_runs_per_host,
        holds=HoldPolicy(
            is_on=settings.holds,
            threshold=settings.hold_threshold,
            pause=settings.hold_pause,
            longest_pause=settings.hold_longest_pause,
            limit=settings.hold_limit,
            keeps_opener=settings.hold_failed == "retry",
            enough=settings.max_concurrent_runs,
        ),
    )
