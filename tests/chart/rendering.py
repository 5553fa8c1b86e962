"""Render the chart with Helm and check the result against the Kubernetes schemas and Pod Security.

Values come in; Kubernetes objects or Helm's error message come out. The tests of the chart and of
the cluster use this module.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from tests.cluster.chart import CHART, helm
from tests.cluster.pod_runner.expansion import expand

KUBERNETES = "1.37"
# Those of the Prometheus operator, and of the Secrets Store CSI driver in an example of the docs.
CUSTOM_KINDS = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "SecretProviderClass")
Json = dict[str, Any]
# The smallest values that the chart accepts.
REQUIRED: Json = {
    "database": {"existingSecret": "courses-database"},
    "destination": "drive:0AbCdEfGhIj",
}
# Every value of the chart, each different from its default.
EVERYTHING: Json = yaml.safe_load(
    (Path(__file__).parent / "everything.yaml").read_text(encoding="utf-8")
)


def render(folder: Path, values: Json, release: str = "school") -> list[Json]:
    """Return all objects of the chart with these values, hooks included."""
    done = helm(
        "template",
        release,
        str(CHART),
        "--namespace",
        "courses",
        "--values",
        str(_write_values(folder, values)),
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def error_message(folder: Path, values: Json, release: str = "school") -> str:
    """Return Helm's error message for invalid values."""
    done = helm("template", release, str(CHART), "--values", str(_write_values(folder, values)))
    assert done.returncode != 0, "Helm accepted these values"
    return done.stderr


def lint(folder: Path, values: Json) -> str:
    """Return what `helm lint` reports about these values; empty if they are valid."""
    done = helm("lint", "--strict", str(CHART), "--values", str(_write_values(folder, values)))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _write_values(folder: Path, values: Json) -> Path:
    path = folder / "values.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def merged(base: Json, over: Json) -> Json:
    """Return `base` with the values of `over`; maps are merged recursively."""
    return base | {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }


def one(objects: list[Json], kind: str, ending: str = "") -> Json:
    """Return the only object of this kind whose name has this ending.

    Those of the page have the ending `-web`, and are left out without it.
    """
    (found,) = (
        each
        for each in objects
        if each["kind"] == kind
        and each["metadata"]["name"].endswith(ending)
        and each["metadata"]["name"].endswith("-web") == (ending == "-web")
    )
    return found


def container_settings(container: Json) -> dict[str, str]:
    """Return the variables of a container that have plain values, expanded as Kubernetes does."""
    settings: dict[str, str] = {}
    for each in container["env"]:
        if "value" in each:
            settings[each["name"]] = expand(each["value"], settings)
    return settings


def pods(objects: list[Json]) -> Iterator[Json]:
    """Yield the spec of every pod that these objects create."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def schema_errors(objects: list[Json]) -> list[str]:
    """Return what violates the Kubernetes schemas. They have no CRDs."""
    problems = []
    for each in objects:
        if each["kind"] in CUSTOM_KINDS:
            continue
        try:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        except (
            kubernetes_validate.ValidationError,
            kubernetes_validate.SchemaNotFoundError,
        ) as error:
            problems.append(f"{each['kind']} {each['metadata']['name']}: {error}")
    return problems


def pod_security_violations(pod: Json) -> list[str]:
    """Return what the level `restricted`, and our own stricter rules, forbid in this pod.

    The rules: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    context = pod.get("securityContext", {})
    problems = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser", 0):
        problems.append("may run as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problems.append("no seccomp profile")
    allowed = {
        "configMap",
        "emptyDir",
        "secret",
        "projected",
        "persistentVolumeClaim",
        "csi",
        "downwardAPI",
        "ephemeral",
    }
    problems += [
        f"volume {each['name']}"
        for each in pod.get("volumes", ())
        if not set(each) - {"name"} <= allowed
    ]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            problems.append(f"{container['name']} may escalate its privileges")
        if security.get("capabilities") != {"drop": ["ALL"]}:
            problems.append(f"{container['name']} keeps capabilities")
        if security.get("readOnlyRootFilesystem") is not True:
            problems.append(f"{container['name']} has a writable root file system")
        if not {"requests", "limits"} <= set(container.get("resources", {})):
            problems.append(f"{container['name']} has no requests or limits")
    return problems
