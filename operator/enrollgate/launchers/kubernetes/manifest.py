"""An order becomes a Job: a pure function, and the merge of what the deployment wants different.

The Job runs one pod at a time, to success. Three facts of the Job controller shape it:

- `podFailurePolicy` lets an exit code that means "permanent" fail the Job at once, and does not count a pod that was drained,
  evicted or preempted (KEP-3329); it wants `restartPolicy: Never`.
- `podReplacementPolicy: Failed` starts the next pod only when the last one is wholly gone (KEP-3939): never two at once.
- An *indexed* Job with `backoffLimitPerIndex` tells each pod, by an annotation, how many came before it (KEP-3850): that is the
  k of `[ATTEMPT k/n]`. `backoffLimit` ends the Job after the same number of failures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import PERMANENT_EXIT_CODES
from enrollgate.launchers.kubernetes.api import Json
from enrollgate.launchers.kubernetes.views import ATTEMPT, DOMAIN, INSTALLATION, TASK, WORKER

SCRATCH = "/scratch"
COOKIES = "/etc/enrollgate/cookies"
DRIVE = "/etc/enrollgate/drive"
USER = 10001
"""The image's user; any other non-root one works as well."""
_GIB = 2**30
_MERGE_KEYS = ("mountPath", "name")
"""PlaylistFound mounts may share a volume's name, so the path comes first."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What all Jobs of an installation have in common. Times in seconds, sizes in bytes."""

    namespace: str
    installation: str
    image: str
    image_pull_policy: str = "IfNotPresent"
    environment: Mapping[str, str] = field(default_factory=dict)
    """The worker's settings."""
    max_attempts: int = 3
    run_timeout: float = 21600.0
    run_ttl: float = 86400.0
    stop_grace: float = 30.0
    cookies_secret: str | None = None
    drive_secret: str | None = None
    destination_claim: str | None = None
    destination_path: str | None = None
    """Where the claim is mounted: the path of a `directory:` destination."""
    service_account: str | None = None
    scratch_volume: int = 10 * _GIB
    template: Json = field(default_factory=dict)
    """A partial Job that is merged over the built one."""


def build_job(order: RunOrder, settings: JobSettings) -> Json:
    """The Job for one run, under the run's name and with the labels that say whose it is, whatever the template has."""
    job: Json = merge(merge(_job(order, settings), settings.template), _identity(order, settings))
    return job


def _identity(order: RunOrder, settings: JobSettings) -> Json:
    """What the Job, and its pods, are found and adopted by."""
    labels = {
        INSTALLATION: settings.installation,
        TASK: str(order.task_id),
        ATTEMPT: str(order.run_number),
    }
    return {
        "metadata": {"name": order.name, "namespace": settings.namespace, "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}}},
    }


def labels_of(installation: str) -> dict[str, str]:
    """The labels of everything we create for runs."""
    return {
        "app.kubernetes.io/name": "enrollgate",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "enrollgate",
        INSTALLATION: installation,
    }


def _job(order: RunOrder, settings: JobSettings) -> Json:
    labels = labels_of(settings.installation) | {
        TASK: str(order.task_id),
        ATTEMPT: str(order.run_number),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "namespace": settings.namespace, "labels": labels},
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
            "template": {"metadata": {"labels": labels}, "spec": _pod(order, settings)},
        },
    }


def _pod(order: RunOrder, settings: JobSettings) -> Json:
    volumes, mounts = _volumes(settings)
    spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(1, round(settings.stop_grace)),
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
                "image": settings.image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": ["work"],
                "env": _environment(order, settings),
                "resources": {
                    "requests": {"ephemeral-storage": str(min(_GIB, settings.scratch_volume))},
                    "limits": {"ephemeral-storage": str(settings.scratch_volume + _GIB)},
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
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    return spec


def _environment(order: RunOrder, settings: JobSettings) -> list[Json]:
    values = {
        **settings.environment,
        **order.variables(),
        "ENROLLGATE_MAX_ATTEMPTS": str(settings.max_attempts),
        "ENROLLGATE_SCRATCH_DIR": f"{SCRATCH}/{order.name}",
        "ENROLLGATE_REPORT_PATH": "/dev/termination-log",
        "HOME": "/tmp",  # noqa: S108 -- an emptyDir of the pod's own
    }
    if settings.cookies_secret:
        values["ENROLLGATE_COOKIES_DIR"] = COOKIES
    if settings.drive_secret:
        values["ENROLLGATE_DRIVE_CREDENTIALS"] = f"{DRIVE}/credentials.json"
    failed_attempts = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
    return [
        *({"name": name, "value": _literal(value)} for name, value in values.items()),
        {
            "name": "ENROLLGATE_FAILED_ATTEMPTS",
            "valueFrom": {"fieldRef": {"fieldPath": failed_attempts}},
        },
    ]


def _literal(value: str) -> str:
    """Written so that it arrives as it is: Kubernetes would replace `$(NAME)`, and make one of two `$`."""
    return value.replace("$", "$$")


def _volumes(settings: JobSettings) -> tuple[list[Json], list[Json]]:
    volumes: list[Json] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": str(settings.scratch_volume)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": str(_GIB)}},
    ]
    mounts: list[Json] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- of the container, its own
    ]
    for name, secret, path in (
        ("cookies", settings.cookies_secret, COOKIES),
        ("drive", settings.drive_secret, DRIVE),
    ):
        if secret:
            volumes.append({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}})
            mounts.append({"name": name, "mountPath": path, "readOnly": True})
    if settings.destination_claim:
        volumes.append(
            {
                "name": "destination",
                "persistentVolumeClaim": {"claimName": settings.destination_claim},
            }
        )
        mounts.append({"name": "destination", "mountPath": settings.destination_path})
    return volumes, mounts


def merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`: maps merge, lists of maps that share a name (or mount path) merge entry by entry, anything else is
    replaced, and null removes.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {key: value for key, value in base.items() if over.get(key, value) is not None}
        return merged | {
            key: merge(base.get(key), value) for key, value in over.items() if value is not None
        }
    if isinstance(base, list) and isinstance(over, list) and (key := _merge_key(base + over)):
        merged = {entry[key]: entry for entry in base}
        for entry in over:
            replaces = not {"value", "valueFrom"}.isdisjoint(
                entry
            )  # a variable has one of the two, never both
            merged[entry[key]] = entry if replaces else merge(merged.get(entry[key]), entry)
        return list(merged.values())
    return over


def _merge_key(entries: list[Any]) -> str | None:
    """The field that tells the entries pinned_cpus, if all have it."""
    for key in _MERGE_KEYS:
        if entries and all(isinstance(entry, dict) and key in entry for entry in entries):
            return key
    return None


def read_template(path: Path) -> Json:
    """Reads a partial Job from a YAML file. Raises ValueError with the remedy if it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"the job template {path} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not set(content) <= {
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    }:
        raise ValueError(
            f"the job template {path} must be a part of a batch/v1 Job: a map with `metadata` and `spec`"
        )
    for name, why in (
        ("name", "each run has its own"),
        ("namespace", "Jobs are where the operator looks for them"),
    ):
        if _at(content, "metadata").get(name):
            raise ValueError(f"the job template {path} sets metadata.{name}: leave it out, {why}")
    for metadata in (_at(content, "metadata"), _at(content, "spec", "template", "metadata")):
        for label in _at(metadata, "labels"):
            if str(label).startswith(f"{DOMAIN}/"):
                raise ValueError(
                    f"the job template {path} sets the label {label}: leave {DOMAIN}/ out, Jobs are known by it"
                )
    return content


def _at(content: Json, *path: str) -> Json:
    """The map at a path; an empty one if there is none."""
    for name in path:
        content = content.get(name) or {}
        if not isinstance(content, dict):
            return {}
    return content
