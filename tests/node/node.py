"""One real node in the namespaces that `scripts/real-node` has made.

In come the folders that the script names. Out comes a cluster whose pods really run: containerd
and runc run them, the kubelet and the scheduler are those of the tests' Kubernetes version.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.cluster.control_plane import Cluster, ControlPlane, start_control_plane
from tests.cluster.control_plane.start import SERVICE_ADDRESS
from tests.node.images import PAUSE_IMAGE

NODE = "node-1"
# The node's address, by which pods reach what listens on 127.0.0.1 here.
ADDRESS = "10.77.0.1"
SOCKET = Path("/run/containerd/containerd.sock")
# The kubelet's namespace in containerd.
NAMESPACE = "k8s.io"


def find_parts() -> tuple[Path, Path, Path] | None:
    """Return the folders of programs, images and of the node's own files; None outside a node."""
    names = ("NODE_PROGRAMS", "NODE_IMAGES", "NODE_FOLDER")
    found = [os.environ.get(name) for name in names]
    if not all(found):
        return None
    programs, images, folder = (Path(each or "") for each in found)
    return programs, images, folder


@contextmanager
def running_node(programs: Path, images: Path, folder: Path) -> Iterator[Cluster]:
    """Start a control plane with one node, and yield it once pods can be scheduled."""
    (folder / "plane").mkdir()
    plane = start_control_plane(folder / "plane", has_node=True)
    try:
        kubeconfig = plane.kubeconfig("admin", plane.admin)
        _forward_service(plane)
        _start_containerd(plane, folder)
        for archive in sorted(images.glob("*.tar")):
            run("ctr", "-a", str(SOCKET), "-n", NAMESPACE, "images", "import", str(archive))
        _start_kubelet(plane, programs, kubeconfig, folder)
        plane.run_beside(
            programs / "kube-scheduler",
            "--kubeconfig", str(kubeconfig), "--leader-elect=false", "--secure-port", "0",
        )  # fmt: skip
        cluster = Cluster(kubeconfig, plane, folder)
        cluster.wait_for(lambda: _is_ready(cluster), what="the node is ready")
        yield cluster
    finally:
        plane.kill()


def _is_ready(cluster: Cluster) -> bool:
    node = cluster.find(f"/api/v1/nodes/{NODE}")
    if node is None or node["spec"].get("taints"):
        return False
    conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    return conditions.get("Ready") == "True"


def _forward_service(plane: ControlPlane) -> None:
    """Let the service's address lead to the API server, as a kube-proxy would."""
    for chain in ("PREROUTING", "OUTPUT"):
        to = ("-d", f"{SERVICE_ADDRESS}/32", "-p", "tcp", "--dport", "443")
        target = f"127.0.0.1:{plane.api_port}"
        run("iptables", "-t", "nat", "-A", chain, *to, "-j", "DNAT", "--to-destination", target)


def _start_containerd(plane: ControlPlane, folder: Path) -> None:
    network = folder / "cni"
    network.mkdir()
    pods = {"subnet": "10.88.0.0/16"}
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "addresses"),
            "ranges": [[pods]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    configuration = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (network / "10-bridge.conflist").write_text(json.dumps(configuration))
    config = folder / "containerd.toml"
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE, runc may not lower a process's score.
    config.write_text(
        f"""\
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
    )
    plane.run_beside(Path("/usr/bin/containerd"), "-c", str(config))
    deadline = time.monotonic() + 60
    while subprocess.run(
        ["ctr", "-a", str(SOCKET), "version"], capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < deadline, (plane.folder / "containerd.log").read_text()[-3000:]
        time.sleep(0.2)


def _start_kubelet(plane: ControlPlane, programs: Path, kubeconfig: Path, folder: Path) -> None:
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "podLogsDir": str(folder / "logs"),
        "address": ADDRESS,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(plane.authority.certificate)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "resolvConf": "",
        "makeIPTablesUtilChains": False,
        "enforceNodeAllocatable": ["pods"],
        # The machine's disk may be nearly full: that is not what is tested.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "volumeStatsAggPeriod": "5s",
        "volumePluginDir": str(folder / "volume-plugins"),
    }
    path = folder / "kubelet.yaml"
    path.write_text(yaml.safe_dump(configuration))
    plane.run_beside(
        programs / "kubelet",
        "--config", str(path), "--kubeconfig", str(kubeconfig),
        "--root-dir", str(folder / "kubelet"),
        "--cert-dir", str(folder / "kubelet-certificates"), "--hostname-override", NODE,
        "--node-ip", ADDRESS,
    )  # fmt: skip


def run(*command: str) -> None:
    """Run a program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
