"""Start and stop the three programs. They die with the test run, however it ends."""

import os
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tests.cluster.control_plane.certificates import Authority, Pair
from tests.databases.server import die_with_parent, free_port

from enrollgate.launchers.kubernetes.tls import without_strict

_START_TIMEOUT = 180.0
_STOP_TIMEOUT = 3.0
REPOSITORY = Path(__file__).parents[3]
_CONTROLLERS = (
    "job-controller",
    "garbage-collector-controller",
    "ttl-after-finished-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "deployment-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "disruption-controller",
    "pod-garbage-collector-controller",
    "root-ca-certificate-publisher-controller",
)
# What a cluster with real nodes needs, too.
_NODE_CONTROLLERS = (
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
)
# The address of the service `kubernetes`, which pods on a real node use.
SERVICE_ADDRESS = "10.0.0.1"


class ControlPlaneAbsent(Exception):
    """The programs are not available. The message says how to get them."""


@dataclass
class ControlPlane:
    """The three programs on loopback. The API server can be restarted on the same port and data."""

    folder: Path
    binaries: Path
    authority: Authority
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    # Whether a kubelet will join.
    has_node: bool = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    def start(self) -> None:
        self.server = self.authority.server("127.0.0.1", SERVICE_ADDRESS)
        self.signing_key = self.authority.signing_key()
        self.admin = self.authority.client("admin", "system:masters")
        self.start_etcd()
        self.start_api()
        self.start_controllers()

    def start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self.etcd_port}"
        peer = f"http://127.0.0.1:{self.etcd_peer_port}"
        self._start(
            "etcd",
            "--data-dir", str(self.folder / "etcd"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
            "--unsafe-no-fsync", "--log-level", "warn", "--quota-backend-bytes", str(4 << 30),
        )  # fmt: skip

    def start_api(self) -> None:
        self._start(
            "kube-apiserver",
            "--etcd-servers", f"http://127.0.0.1:{self.etcd_port}",
            "--bind-address", "127.0.0.1", "--secure-port", str(self.api_port),
            "--tls-cert-file", str(self.server.certificate),
            "--tls-private-key-file", str(self.server.key),
            "--client-ca-file", str(self.authority.certificate),
            "--authorization-mode", "RBAC",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", str(self.signing_key),
            "--service-account-signing-key-file", str(self.signing_key),
            "--service-cluster-ip-range", "10.0.0.0/24",
            "--max-requests-inflight", "1000", "--max-mutating-requests-inflight", "500",
            "--event-ttl", "2h",
            *(("--kubelet-client-certificate", str(self.admin.certificate),
               "--kubelet-client-key", str(self.admin.key),
               "--kubelet-preferred-address-types", "InternalIP") if self.has_node else ()),
        )  # fmt: skip
        self._wait_for_api()

    def start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            "--kubeconfig", str(self.kubeconfig("controllers", self.admin)),
            "--controllers", ",".join(_CONTROLLERS + (_NODE_CONTROLLERS if self.has_node else ())),
            "--service-account-private-key-file", str(self.signing_key),
            "--root-ca-file", str(self.authority.certificate),
            "--leader-elect=false", "--secure-port", "0",
            "--kube-api-qps", "2000", "--kube-api-burst", "4000", "--concurrent-job-syncs", "20",
            "--terminated-pod-gc-threshold", "50000",
            # A node renews its Lease every 10 s.
            *(("--node-monitor-grace-period", "25s") if self.has_node else ()),
        )  # fmt: skip

    def stop(self, program: str) -> None:
        """Stop one program. An API server would wait for its watches, so it gets little time."""
        process = self.processes.pop(program)
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill_one(self, program: str) -> None:
        """Kill one program."""
        process = self.processes.pop(program)
        process.kill()
        process.wait()

    def kill(self) -> None:
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()
        self.processes.clear()

    def kubeconfig(self, name: str, pair: Pair) -> Path:
        return self.write_kubeconfig(
            name,
            {"client-certificate": str(pair.certificate), "client-key": str(pair.key)},
            "default",
        )

    def write_kubeconfig(self, name: str, user: dict[str, str], namespace: str) -> Path:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": str(self.authority.certificate),
                    },
                }
            ],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            ],
            "current-context": "x",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def run_beside(self, program: Path, *arguments: str) -> None:
        """Start another program that ends with the control plane. Its log is beside theirs."""
        self._start(program.name, *arguments, path=program)

    def _start(self, program: str, *arguments: str, path: Path | None = None) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self.processes[program] = subprocess.Popen(
                [str(path or self.binaries / program), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- it takes no lock
            )

    def _wait_for_api(self) -> None:
        context = without_strict(ssl.create_default_context(cafile=str(self.authority.certificate)))
        context.load_cert_chain(self.admin.certificate, self.admin.key)
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            for program, process in self.processes.items():
                if process.poll() is not None:
                    log = (self.folder / f"{program}.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{program} ended with {process.returncode}:\n{log}")
            try:
                with urllib.request.urlopen(
                    f"{self.url}/readyz", context=context, timeout=2
                ) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("the API server is not ready in time")


def start_control_plane(folder: Path, *, has_node: bool = False) -> ControlPlane:
    """Start a control plane that keeps its data below `folder`. Raises ControlPlaneAbsent.

    With `has_node`, it also runs the controllers of nodes and volumes.
    """
    found = subprocess.run(
        [REPOSITORY / "scripts" / "control-plane"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    if found.returncode != 0:
        raise ControlPlaneAbsent(found.stderr.strip())
    certificates = folder / "certificates"
    certificates.mkdir()
    plane = ControlPlane(folder, Path(found.stdout.strip()), Authority(certificates))
    plane.has_node = has_node
    plane.start()
    return plane
