"""Benchmarks on a real control plane: Jobs per second, delays, and the cost of 10,000 live Jobs."""

from benchmarks.cluster.burst import measure_cluster_burst
from benchmarks.cluster.cluster_env import control_plane
from benchmarks.cluster.delays import measure_delays
from benchmarks.cluster.live import measure_live

__all__ = ["control_plane", "measure_cluster_burst", "measure_delays", "measure_live"]
