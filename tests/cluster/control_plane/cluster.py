"""What tests do with a cluster: call its API as administrator, create namespaces and tokens."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml
from kubernetes import client, config
from tests.cluster.control_plane.start import ControlPlane

from enrollgate.launchers.kubernetes import Api, ApiError
from enrollgate.launchers.kubernetes.tls import use_without_strict

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def lenient_client(configuration: client.Configuration) -> client.ApiClient:
    """Build a client that accepts the tests' own authority, which is not strictly conformant."""
    made = client.ApiClient(configuration)
    use_without_strict(made)
    return made


@dataclass
class Cluster:
    """A cluster that tests may change. `plane` is None if the tests did not start it."""

    kubeconfig: Path
    plane: ControlPlane | None
    # Holds the files that tests create.
    folder: Path

    def __post_init__(self) -> None:
        self.api = self.api_for(self.kubeconfig)

    @property
    def url(self) -> str:
        return str(self.api.configuration.host)

    @staticmethod
    def api_for(kubeconfig: Path, connections: int = 20) -> Api:
        """Build the API client of the user of a kubeconfig."""
        configuration = client.Configuration()
        config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        configuration.connection_pool_maxsize = connections
        configuration.retries = False
        return Api(configuration, random=Random(1), sleep=time.sleep)

    @contextmanager
    def namespace(self, name: str = "") -> Iterator[str]:
        """Create a namespace under `restricted` Pod Security; delete it at the end without
        waiting.
        """
        name = name or f"test-{uuid.uuid4().hex[:10]}"
        body: dict[str, Any] = {"metadata": {"name": name, "labels": RESTRICTED}}
        self.api.request("POST", "/api/v1/namespaces", body=body)
        self.wait_for(
            lambda: self.find(f"/api/v1/namespaces/{name}/serviceaccounts/default") is not None
        )
        try:
            yield name
        finally:
            self.api.request("DELETE", f"/api/v1/namespaces/{name}")

    def find(self, path: str) -> dict[str, Any] | None:
        """Return the object at a path, or None if there is none."""
        try:
            return self.api.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return all objects of a listing."""
        return [each for page in self.api.pages(path, query=query) for each in page]

    def jobs(self, namespace: str, **query: str) -> list[dict[str, Any]]:
        return self.items(f"/apis/batch/v1/namespaces/{namespace}/jobs", **query)

    def pods(self, namespace: str, **query: str) -> list[dict[str, Any]]:
        return self.items(f"/api/v1/namespaces/{namespace}/pods", **query)

    def events(self, namespace: str, **query: str) -> list[dict[str, Any]]:
        return self.items(f"/api/v1/namespaces/{namespace}/events", **query)

    def everything(self, namespace: str) -> dict[str, dict[str, Any]]:
        """Return all objects of a namespace by kind and name, of every kind that the API server
        serves.

        Events are left out: they expire by themselves.
        """
        groups = self.api.request("GET", "/apis")["groups"]
        found = {}
        for version in (
            "/api/v1",
            *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups),
        ):
            for kind in self.api.request("GET", version)["resources"]:
                if kind["namespaced"] and "list" in kind["verbs"] and kind["name"] != "events":
                    for each in self.items(f"{version}/namespaces/{namespace}/{kind['name']}"):
                        found[f"{kind['name']}/{each['metadata']['name']}"] = each
        return found

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.api.request("POST", path, body=body)

    def secret(self, namespace: str, name: str, **data: str) -> None:
        self.create(
            f"/api/v1/namespaces/{namespace}/secrets",
            {"metadata": {"name": name}, "stringData": data},
        )

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """Write a kubeconfig with a token of this service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        self.wait_for(lambda: self.find(path.removesuffix("/token")) is not None)
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        }
        token = self.api.request("POST", path, body=body)["status"]["token"]
        user = f"{namespace}-{service_account}"
        content = yaml.safe_load(self.kubeconfig.read_text())
        context = next(
            each["context"]
            for each in content["contexts"]
            if each["name"] == content["current-context"]
        )
        context |= {"user": user, "namespace": namespace}
        kubeconfig = self.folder / f"{user}.kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(content | {"users": [{"name": user, "user": {"token": token}}]})
        )
        kubeconfig.chmod(0o600)
        return kubeconfig

    def log(self, namespace: str, pod: str) -> str:
        """Return what `kubectl logs` shows."""
        core = client.CoreV1Api(lenient_client(self.api.configuration))
        return str(core.read_namespaced_pod_log(pod, namespace))

    @staticmethod
    def wait_for(condition: Callable[[], object], timeout: float = 120.0, what: str = "") -> None:
        """Wait until the condition is true. The timeout (seconds) is generous, since machines can
        be slow.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (
                f"it did not happen in {timeout} s: {what or condition}"
            )
            time.sleep(0.05)
