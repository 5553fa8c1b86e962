"""Runs as Kubernetes Jobs: one Job per run, in one namespace, through the official client.

    api        HTTP to the API server: authentication, time-outs, retries, errors
    views      raw objects become typed data, once, here
    manifest   an order becomes a Job (pure)
    diagnosis  a Job, its pods and their events become a report (pure)
    launcher   the `Launcher` protocol on top of these
    stories    the Kubernetes Events that `kubectl describe job` shows
    lease      leader election
    access     whether the operator may do all that, for `enrollgate doctor`

Only `wiring`, `controller` and `doctor` import this package; kopf is not imported here.
"""

from enrollgate.launchers.kubernetes.access import check_access, permissions
from enrollgate.launchers.kubernetes.api import (
    Api,
    ApiError,
    ClusterNotConfigured,
    ConnectionDetails,
    connect,
)
from enrollgate.launchers.kubernetes.launcher import KubernetesLauncher
from enrollgate.launchers.kubernetes.manifest import JobSettings, read_template
from enrollgate.launchers.kubernetes.views import changed_run, selector_of

__all__ = [
    "Api",
    "ApiError",
    "ClusterNotConfigured",
    "ConnectionDetails",
    "JobSettings",
    "KubernetesLauncher",
    "changed_run",
    "check_access",
    "connect",
    "permissions",
    "read_template",
    "selector_of",
]
