"""Build the Job of a run from its order, the settings and the deployment's job template.

Pure functions, but for reading the template.

The Job runs one pod at a time until one succeeds. Three features of the Job controller shape it:

- `podFailurePolicy`: an exit code that means "permanent" fails the Job at once; a pod that was
  drained, evicted or preempted does not count (KEP-3329). It requires `restartPolicy: Never`.
- `podReplacementPolicy: Failed`: the next pod starts only when the last one is gone (KEP-3939):
  never two at once.
- An *indexed* Job with `backoffLimitPerIndex` tells each pod, by an annotation, how many failed
  before it (KEP-3850): that is the k of `[ATTEMPT k/n]`. `backoffLimit` ends the Job after the same
  number of failures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from enrollgate.domain.destination import DirectoryDestination
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import PERMANENT_EXIT_CODES
from enrollgate.launchers.kubernetes.api import Json
from enrollgate.launchers.kubernetes.views import (
    CLAIM,
    DOMAIN,
    INSTALLATION,
    RUN,
    TASK,
    WORKER,
    task_label,
)
from enrollgate.settings.kubernetes import KubernetesSettings
from enrollgate.settings.worker import WorkerSettings

SCRATCH = "/scratch"
COOKIES = "/etc/enrollgate/cookies"
DRIVE = "/etc/enrollgate/drive"
# The user of the image. Any other non-root user works as well.
USER = 10001
_GIB = 2**30
_NAME = "name"
_SCRATCH_DIR = "ENROLLGATE_SCRATCH_DIR"


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What all Jobs of an installation have in common.

    `run_timeout` and `run_ttl` are seconds. `template` is a partial Job that is merged over the
    built one.
    """

    namespace: str
    installation: str
    worker: WorkerSettings
    kubernetes: KubernetesSettings
    max_attempts: int
    run_timeout: float
    run_ttl: float
    template: Json = field(default_factory=dict)


def build_job(order: RunOrder, settings: JobSettings) -> Json:
    """Build the Job of one run. The template cannot change its name, namespace or own labels."""
    return _render(_order_values(order), settings)


class JobTemplate:
    """The Job of an installation, rendered once. Each run fills in its own few values.

    What costs, the settings as an environment and the merge, is the same for every run.
    """

    def __init__(self, settings: JobSettings) -> None:
        marks = {name: _Value(name) for name in _order_values(_NO_ORDER)}
        self._job = _render(marks, settings)
        self._places = _find_values(self._job)

    def build(self, order: RunOrder) -> Json:
        """Build the Job of one run, as `build_job` does. Jobs share their equal parts."""
        job: Json = _fill_in(self._job, self._places, _order_values(order))
        return job


class _Value(str):
    """The name of a value that each run has its own of, in the place of that value."""

    __slots__ = ()


# The places of values in a JSON value: the value's name, or those of each key or index that leads
# to some.
_Places = str | dict[str | int, "_Places"]
_NO_ORDER = RunOrder("", 0, 0, "", "")


def _find_values(rendered: Any) -> _Places:
    if isinstance(rendered, _Value):
        return str(rendered)
    entries = (
        rendered.items()
        if isinstance(rendered, dict)
        else enumerate(rendered)
        if isinstance(rendered, list)
        else ()
    )
    return {key: places for key, entry in entries if (places := _find_values(entry))}


def _fill_in(rendered: Any, places: _Places, values: Mapping[str, str]) -> Any:
    """Copy a JSON value with the values in their places. The parts without any are not copied."""
    if isinstance(places, str):
        return values[places]
    filled = rendered.copy()
    for key, below in places.items():
        filled[key] = _fill_in(rendered[key], below, values)
    return filled


def _order_values(order: RunOrder) -> dict[str, str]:
    """Return all that the Job says of its run: the name, own labels, and variables."""
    variables = {**order.variables(), _SCRATCH_DIR: f"{SCRATCH}/{order.name}"}
    return {
        _NAME: order.name,
        TASK: task_label(order.task_id),
        RUN: str(order.run_number),
        CLAIM: order.claim_id,
        **{name: _escape(value) for name, value in variables.items()},
    }


def _escape(value: str) -> str:
    """Write `$$`, an escaped `$`: Kubernetes would expand `$(NAME)`."""
    return value.replace("$", "$$")


def _render(values: Mapping[str, str], settings: JobSettings) -> Json:
    """Build a Job with these values of its run, wherever they belong."""
    own_labels = {
        INSTALLATION: settings.installation,
        **{label: values[label] for label in (TASK, RUN, CLAIM)},
    }
    labels = {
        "app.kubernetes.io/name": "enrollgate",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "enrollgate",
        **own_labels,
    }
    job: Json = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": settings.max_attempts - 1,
            "backoffLimitPerIndex": settings.max_attempts - 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": WORKER,
                            "operator": "In",
                            "values": sorted(PERMANENT_EXIT_CODES),
                        },
                    },
                ]
            },
            "activeDeadlineSeconds": max(1, round(settings.run_timeout)),
            "ttlSecondsAfterFinished": round(settings.run_ttl),
            "template": {"metadata": {"labels": labels}, "spec": _build_pod(values, settings)},
        },
    }
    identity = {
        "metadata": {"name": values[_NAME], "namespace": settings.namespace, "labels": own_labels},
        "spec": {"template": {"metadata": {"labels": own_labels}}},
    }
    merged: Json = merge(merge(job, settings.template), identity)
    return merged


def _build_pod(values: Mapping[str, str], settings: JobSettings) -> Json:
    kubernetes = settings.kubernetes
    scratch = int(kubernetes.scratch_volume)
    volumes, mounts = _build_volumes(settings)
    spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(1, round(settings.worker.stop_grace)),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": WORKER,
                "image": kubernetes.image or "",
                "imagePullPolicy": kubernetes.image_pull_policy,
                "args": ["work"],
                "env": _build_environment(values, settings),
                "resources": {
                    "requests": {"ephemeral-storage": str(min(_GIB, scratch))},
                    "limits": {"ephemeral-storage": str(scratch + _GIB)},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if kubernetes.service_account:
        spec["serviceAccountName"] = kubernetes.service_account
    return spec


def _build_environment(values: Mapping[str, str], settings: JobSettings) -> list[Json]:
    common = {
        **settings.worker.to_env(),
        "ENROLLGATE_MAX_ATTEMPTS": str(settings.max_attempts),
        "ENROLLGATE_REPORT_PATH": "/dev/termination-log",
        "HOME": "/tmp",  # noqa: S108 -- an emptyDir of the pod's own
    }
    if settings.kubernetes.cookies_secret:
        common["ENROLLGATE_COOKIES_DIR"] = COOKIES
    if settings.kubernetes.drive_secret:
        common["ENROLLGATE_DRIVE_CREDENTIALS"] = f"{DRIVE}/credentials.json"
    own = {name: value for name, value in values.items() if name.startswith("ENROLLGATE_")}
    variables = {name: _escape(value) for name, value in common.items()} | own
    failed_attempts = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
    return [
        *({"name": name, "value": value} for name, value in variables.items()),
        {
            "name": "ENROLLGATE_FAILED_ATTEMPTS",
            "valueFrom": {"fieldRef": {"fieldPath": failed_attempts}},
        },
    ]


def _build_volumes(settings: JobSettings) -> tuple[list[Json], list[Json]]:
    """Return the pod's volumes and the worker's mounts of them."""
    kubernetes = settings.kubernetes
    volumes: list[Json] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": str(int(kubernetes.scratch_volume))}},
        {"name": "tmp", "emptyDir": {"sizeLimit": str(_GIB)}},
    ]
    mounts: list[Json] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- of the container, its own
    ]
    for name, secret, path in (
        ("cookies", kubernetes.cookies_secret, COOKIES),
        ("drive", kubernetes.drive_secret, DRIVE),
    ):
        if secret:
            volumes.append({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}})
            mounts.append({"name": name, "mountPath": path, "readOnly": True})
    if kubernetes.destination_claim:
        claim = {"claimName": kubernetes.destination_claim}
        destination = settings.worker.destination
        directory = destination.path if isinstance(destination, DirectoryDestination) else None
        volumes.append({"name": "destination", "persistentVolumeClaim": claim})
        mounts.append({"name": "destination", "mountPath": str(directory) if directory else None})
    return volumes, mounts


def merge(base: Any, overlay: Any) -> Any:
    """Merge an overlay into a JSON value, and return the result. Neither is changed.

    - Two maps: key by key. A key whose value is null in the overlay is removed.
    - Two lists of maps that all have a `mountPath`, or all a `name`: entry by entry, matched by
      that key. An entry with `value` or `valueFrom` (an environment variable) replaces its match,
      since it may have only one of the two.
    - Anything else: the overlay replaces the base.
    """
    if isinstance(base, dict) and isinstance(overlay, dict):
        kept = {key: value for key, value in base.items() if overlay.get(key, value) is not None}
        changed = {
            key: merge(base.get(key), value) for key, value in overlay.items() if value is not None
        }
        return kept | changed
    if isinstance(base, list) and isinstance(overlay, list):
        return _merge_lists(base, overlay)
    return overlay


def _merge_lists(base: list[Any], overlay: list[Any]) -> list[Any]:
    together = [*base, *overlay]
    # Several mounts may share a volume's name, so the path comes first.
    keys = [
        key
        for key in ("mountPath", "name")
        if all(isinstance(entry, dict) and key in entry for entry in together)
    ]
    if not together or not keys:
        return overlay
    key = keys[0]
    entries = {entry[key]: entry for entry in base}
    for entry in overlay:
        is_variable = "value" in entry or "valueFrom" in entry
        match = None if is_variable else entries.get(entry[key])
        entries[entry[key]] = entry if is_variable else merge(match, entry)
    return list(entries.values())


def read_template(path: Path) -> Json:
    """Read a partial Job from a YAML file; an empty file is an empty one.

    Raises ValueError with the remedy if it is not a part of a Job, or sets what identifies our
    Jobs.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"the job template {path} cannot be read: {error}") from error
    if content is None:
        return {}
    allowed = {"apiVersion", "kind", "metadata", "spec"}
    if not isinstance(content, dict) or not set(content) <= allowed:
        raise ValueError(
            f"the job template {path} must be a part of a batch/v1 Job: "
            "a map with `metadata` and `spec`"
        )
    job_metadata = _map_at(content, ["metadata"])
    for name, why in (
        ("name", "each run has its own"),
        ("namespace", "Jobs are where the operator looks for them"),
    ):
        if job_metadata.get(name):
            raise ValueError(f"the job template {path} sets metadata.{name}: leave it out, {why}")
    for metadata in (job_metadata, _map_at(content, ["spec", "template", "metadata"])):
        for label in _map_at(metadata, ["labels"]):
            if str(label).startswith(f"{DOMAIN}/"):
                raise ValueError(
                    f"the job template {path} sets the label {label}: leave {DOMAIN}/ out, "
                    "Jobs are known by it"
                )
    return content


def _map_at(content: Json, path: Iterable[str]) -> Json:
    """Return the map at a path of keys; an empty one if there is none."""
    for key in path:
        content = content.get(key) or {}
        if not isinstance(content, dict):
            return {}
    return content
