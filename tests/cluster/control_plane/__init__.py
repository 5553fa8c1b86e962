"""A real Kubernetes control plane on loopback, the envtest way: etcd, kube-apiserver, kube-controller-manager. No nodes."""

from tests.cluster.control_plane.cluster import Cluster
from tests.cluster.control_plane.start import ControlPlane, ControlPlaneAbsent, start_control_plane

__all__ = ["Cluster", "ControlPlane", "ControlPlaneAbsent", "start_control_plane"]
