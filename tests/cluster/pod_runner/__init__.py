"""Plays scheduler and kubelet on a control plane without nodes: pods become real child processes.

runner    watches the pods of all namespaces, gives each a thread
life      one pod, from binding to its last status
sandbox   one container: its own mounts on a copy of this machine's root, its user, no privileges
volumes   what is mounted: secrets, config maps, claims, tokens
statuses  what a kubelet would report (pure)
"""

from tests.cluster.pod_runner.life import Fault
from tests.cluster.pod_runner.runner import PodRunner

__all__ = ["Fault", "PodRunner"]
