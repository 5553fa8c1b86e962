"""Call Helm and kubectl as users do, and read what the chart renders for an operator."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner.expansion import expand

Json = dict[str, Any]
RELEASE = "school"
PERMISSIONS = ("ServiceAccount", "Role", "RoleBinding")
REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "enrollgate"


@cache
def tools() -> Path:
    """Return the folder that holds both programs."""
    found = subprocess.run(
        [REPOSITORY / "scripts" / "helm-kubectl"], capture_output=True, text=True, check=True
    )
    return Path(found.stdout.strip())


def helm(
    *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return _run("helm", arguments, kubeconfig, stdin)


def deploy(
    verb: str, values: Json, *, cluster: Cluster, namespace: str, release: str = RELEASE
) -> subprocess.CompletedProcess[str]:
    """Install or upgrade a release of the chart with these values, which Helm reads from stdin."""
    arguments = (verb, release, str(CHART), "-f", "-", "-n", namespace)
    return helm(*arguments, kubeconfig=cluster.kubeconfig, stdin=json.dumps(values))


def kubectl(*arguments: str, kubeconfig: Path, stdin: str | None = None) -> str:
    done = _run("kubectl", arguments, kubeconfig, stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(
    program: str, arguments: tuple[str, ...], kubeconfig: Path | None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    return subprocess.run(
        [str(tools() / program), *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Rendered:
    """What the chart renders from some values, as far as an operator outside a pod needs it."""

    # Arguments of the operator's container.
    arguments: list[str]
    # Variables of that container: its plain values, and its namespace.
    environment: dict[str, str]
    job_template: str
    permissions: list[Json]


def rendered(namespace: str, values: Json) -> Rendered:
    """Render the chart with these values on top of the required ones. All objects are called
    `school`.
    """
    least = {
        "fullnameOverride": RELEASE,
        "database": {"existingSecret": "database"},
        "destination": "drive:0123456789",
    }
    done = helm(
        "template",
        RELEASE,
        str(CHART),
        "-n",
        namespace,
        "-f",
        "-",
        stdin=json.dumps(least | values),
    )
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    (template,) = (
        each for each in objects if each["metadata"]["name"] == f"{RELEASE}-job-template"
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return Rendered(
        arguments=container["args"],
        environment=_variables(container, {"metadata.namespace": namespace}),
        job_template=template["data"]["job.yaml"],
        permissions=[each for each in objects if each["kind"] in PERMISSIONS],
    )


def _variables(container: Json, fields: dict[str, str]) -> dict[str, str]:
    """Return a container's variables, except those that come from Secrets."""
    found = dict[str, str]()
    for each in container["env"]:
        if "value" in each:
            found[each["name"]] = expand(each["value"], found)
    sources = {each["name"]: each["valueFrom"] for each in container["env"] if "valueFrom" in each}
    return found | {
        name: fields[source["fieldRef"]["fieldPath"]]
        for name, source in sources.items()
        if "fieldRef" in source
    }


def grant(namespace: str, kubeconfig: Path, replicas: int = 2) -> None:
    """Create the chart's service account and Role for this many replicas. Both are called
    `school`.
    """
    objects = rendered(namespace, {"replicas": replicas}).permissions
    documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    kubectl("apply", "-n", namespace, "-f", "-", kubeconfig=kubeconfig, stdin=documents)
