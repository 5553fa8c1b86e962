"""A real Kubernetes control plane on loopback, as envtest does it.

It runs etcd, kube-apiserver and kube-controller-manager. There are no nodes.
"""

from tests.cluster.control_plane.cluster import Cluster
from tests.cluster.control_plane.start import ControlPlane, ControlPlaneAbsent, start_control_plane

__all__ = ["Cluster", "ControlPlane", "ControlPlaneAbsent", "start_control_plane"]
