"""The tests' own scheduler and kubelet: on a control plane without nodes, pods become processes.

    runner       watches the pods of all namespaces, starts a thread for each
    life         one pod, from binding to its last status
    sandbox      one container: namespaces, an overlay of this machine's root, its user
    volumes      what is mounted and put into variables: Secrets, ConfigMaps, claims, tokens
    expansion    `$(NAME)` in values, commands and arguments (pure)
    probes       readiness, liveness, startup
    reporting    a pod's requests to the API server
    statuses     what a kubelet would report (pure)
    logs         serves `kubectl logs`
    fake_kubelet replaces all of that for bursts: thousands of pods without processes

The README of this folder says how it is checked against a real kubelet's behaviour.
"""

from tests.cluster.pod_runner.fake_kubelet import FakeKubelet
from tests.cluster.pod_runner.life import Fault, Life
from tests.cluster.pod_runner.logs import LogAnswer
from tests.cluster.pod_runner.runner import PodRunner

__all__ = ["FakeKubelet", "Fault", "Life", "LogAnswer", "PodRunner"]
