"""On a real control plane: how fast Jobs are made, how soon things are noticed, what ten thousand live Jobs cost."""

from benchmarks.cluster.burst import measure_cluster_burst
from benchmarks.cluster.cluster_env import control_plane
from benchmarks.cluster.delays import measure_delays
from benchmarks.cluster.live import measure_live

__all__ = ["control_plane", "measure_cluster_burst", "measure_delays", "measure_live"]
