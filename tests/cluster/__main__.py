"""Run a cluster to try things by hand: `python -m tests.cluster`.

It starts the tests' control plane and pod runner, prints where the kubeconfig is, and stops both
at Ctrl-C.
"""

import signal
import tempfile
from pathlib import Path

from tests.cluster.control_plane import Cluster, start_control_plane
from tests.cluster.pod_runner import PodRunner


def main() -> None:
    with tempfile.TemporaryDirectory(
        prefix="enrollgate-cluster-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        plane = start_control_plane(folder)
        cluster = Cluster(plane.kubeconfig("admin", plane.admin), plane, folder)
        pods = folder / "pods"
        pods.mkdir()
        folder.chmod(0o755)
        runner = PodRunner(cluster, pods)
        runner.start()
        print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            runner.stop()
            plane.kill()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
