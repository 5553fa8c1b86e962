"""Plays scheduler and kubelet on a control plane without nodes: pods become real child processes.

runner     watches the pods of all namespaces, gives each a thread
life       one pod, from binding to its last status
sandbox    one container: namespaces, mounts on a copy of this machine's root, its user, no privileges
volumes    what is mounted and put into variables: secrets, config maps, claims, tokens
expansion  `$(NAME)` in values, commands and arguments (pure)
probes     readiness, liveness, startup
reporting  one pod's line to the API server
statuses   what a kubelet would report (pure)
logs       serves `kubectl logs`
fake_kubelet      in place of all that, for bursts: very many pods, and no processes
"""

from tests.cluster.pod_runner.fake_kubelet import FakeKubelet
from tests.cluster.pod_runner.life import Fault, Life
from tests.cluster.pod_runner.runner import PodRunner

__all__ = ["FakeKubelet", "Fault", "Life", "PodRunner"]
