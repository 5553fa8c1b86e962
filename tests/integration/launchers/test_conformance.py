"""The launcher in memory and the local one keep the promises of `Launcher`.

The Kubernetes launcher: tests/cluster/test_conformance.py.
"""

from tests.launcher_conformance import LauncherConformance


class TestConformance(LauncherConformance):
    """The cases; conftest has the backends."""
