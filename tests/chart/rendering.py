"""Renders the chart with Helm, and asks the Kubernetes schemas and Pod Security about the result."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from tests.cluster.chart import CHART, helm
from tests.cluster.pod_runner.expansion import expand

KUBERNETES = "1.37"
REQUIRED: dict[str, Any] = {
    "database": {"existingSecret": "courses-database"},
    "destination": "drive:0AbCdEf",
}
"""The least that the chart wants to be told."""
EVERYTHING: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "everything.yaml").read_text(encoding="utf-8")
)

Json = dict[str, Any]


def render(folder: Path, values: Json, release: str = "school") -> list[Json]:
    """All objects of the chart with these values, its hooks included."""
    done = helm(
        "template",
        release,
        str(CHART),
        "--namespace",
        "courses",
        "--values",
        str(_file(folder, values)),
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def refusal(folder: Path, values: Json, release: str = "school") -> str:
    """What Helm says to values that it must refuse."""
    done = helm("template", release, str(CHART), "--values", str(_file(folder, values)))
    assert done.returncode != 0, "these values were taken"
    return done.stderr


def lint(folder: Path, values: Json) -> str:
    """What is wrong with the chart and these values; empty if nothing is."""
    done = helm("lint", "--strict", str(CHART), "--values", str(_file(folder, values)))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _file(folder: Path, values: Json) -> Path:
    path = folder / "values.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def merged(base: Json, over: Json) -> Json:
    """`over` laid upon `base`, map by map."""
    return base | {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }


def one(objects: list[Json], kind: str, ending: str = "") -> Json:
    """The one object of a kind whose name ends so."""
    (found,) = (
        each
        for each in objects
        if each["kind"] == kind and each["metadata"]["name"].endswith(ending)
    )
    return found


def settings_of(container: Json) -> dict[str, str]:
    """The settings that a container gets as plain values, once Kubernetes has expanded them."""
    settings: dict[str, str] = {}
    for each in container["env"]:
        if "value" in each:
            settings[each["name"]] = expand(each["value"], settings)
    return settings


def pods(objects: list[Json]) -> Iterator[Json]:
    """The spec of every pod that these objects make."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def complain(objects: list[Json]) -> list[str]:
    """What the Kubernetes schemas do not like. The Prometheus operator's kind is no part of them."""
    problems = []
    for each in objects:
        if each["kind"] == "ServiceMonitor":
            continue
        try:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        except (
            kubernetes_validate.ValidationError,
            kubernetes_validate.SchemaNotFoundError,
        ) as error:
            problems.append(f"{each['kind']} {each['metadata']['name']}: {error}")
    return problems


def unrestricted(pod: Json) -> list[str]:
    """What Pod Security's level `restricted`, and our own stricter rules, forbid in this pod."""
    context = pod.get("securityContext", {})
    problems = [
        name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)
    ]  # https://kubernetes.io/docs/concepts/security/pod-security-standards/
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
            problems.append(f"{container['name']} can write its root")
        if not {"requests", "limits"} <= set(container.get("resources", {})):
            problems.append(f"{container['name']} has no requests or limits")
    return problems
