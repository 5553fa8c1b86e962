"""Runs as Kubernetes Jobs: one Job per run, in one namespace, through the official client.

    launcher      the `Launcher` protocol, on top of the modules below
    job_client    reads and writes Jobs, pods and Events; turns raw objects into typed data
    request_pool  several requests at the same time
    api           HTTP to the API server: authentication, timeouts, retries, errors
    tls           certificates that Python 3.13 would refuse
    views         the typed data: what is known of a Job, a pod, an Event
    manifest      an order becomes a Job (pure)
    diagnosis     a Job, its pods and Events become a report (pure)
    events        the Events that `kubectl describe job` shows
    run_details   what a cluster knows of one run, for `enrollgate explain`
    pod_log       the log of a run's pods, for `enrollgate logs`
    access        whether the operator has its permissions, for `enrollgate doctor`

Only `control` and `commands` may import this package. It never imports kopf.
"""

from enrollgate.launchers.kubernetes.access import check_access, permissions
from enrollgate.launchers.kubernetes.api import (
    TABLE,
    Api,
    ApiError,
    ClusterNotConfigured,
    ConnectionDetails,
    connect,
)
from enrollgate.launchers.kubernetes.job_client import changed_run, prints_status
from enrollgate.launchers.kubernetes.launcher import KubernetesLauncher
from enrollgate.launchers.kubernetes.manifest import JobSettings, read_template
from enrollgate.launchers.kubernetes.views import job_selector

__all__ = [
    "TABLE",
    "Api",
    "ApiError",
    "ClusterNotConfigured",
    "ConnectionDetails",
    "JobSettings",
    "KubernetesLauncher",
    "changed_run",
    "check_access",
    "connect",
    "job_selector",
    "permissions",
    "prints_status",
    "read_template",
]
