"""How runs fail on a real node, and what Node.js then reads in `enrollgate_runs`."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.node.faults import mount_disk
from tests.node.images import OTHER_IMAGE
from tests.node.installation import Installation, job_template, reports

from enrollgate.domain.reasons import EXIT_RETRYABLE

Install = Callable[..., Installation]


def variable_from_secret(name: str, key: str) -> dict[str, Any]:
    source = {"secretKeyRef": {"name": name, "key": key}}
    return job_template(env=[{"name": "TOKEN", "valueFrom": source}])


@pytest.mark.parametrize(
    ("values", "reason", "words"),
    [
        (
            job_template(image="registry.invalid/enrollgate:absent"),
            "ImagePullBackOff",
            "registry.invalid/enrollgate:absent",
        ),
        (
            {"cookies": {"existingSecret": "not-there"}},
            "CreateContainerConfigError",
            "secret 'not-there' does not exist",
        ),
        (
            variable_from_secret("not-there", "token"),
            "CreateContainerConfigError",
            'secret "not-there" not found',
        ),
        (
            variable_from_secret("database", "not-there"),
            "CreateContainerConfigError",
            "couldn't find key not-there in Secret",
        ),
        (
            job_template(image=OTHER_IMAGE),
            "StartError",
            'exec: "work": executable file not found in $PATH',
        ),
        (
            job_template(command=["not-in-the-image"]),
            "StartError",
            'exec: "not-in-the-image": executable file not found in $PATH',
        ),
        (
            {"worker": {"resources": {"requests": {"cpu": "1000"}}}},
            "Unschedulable",
            "Insufficient cpu",
        ),
        (
            {
                "worker": {
                    "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "48Mi"}}
                }
            },
            "OOMKilled",
            "more memory than its limit",
        ),
    ],
    ids=[
        "wrong image",
        "missing Secret of a volume",
        "missing Secret of a variable",
        "missing key",
        "image without the program",
        "missing command",
        "no room",
        "out of memory",
    ],
)
def test_a_worker_that_cannot_run_is_explained(
    install: Install, site: FaultySite, values: dict[str, Any], reason: str, words: str
) -> None:
    installation = install(startTimeout="15s", **values)
    installation.enroll(f"{site.url}/feed")

    found, message = installation.failed_run()

    assert found == reason and words in message, (found, message)
    assert f"{reason}: " in installation.explain()


def test_a_worker_that_fills_its_scratch_volume_is_evicted(
    install: Install, site: FaultySite
) -> None:
    """The kubelet looks at volumes from time to time: the lecture takes longer than that."""
    site.lectures = [Lecture("Long", lecture(200_000_000, 1))]
    site.rate = 4_000_000
    installation = install(worker={"scratchVolume": "20MiB", "scratchLimit": "10MiB"})
    installation.enroll(f"{site.url}/feed")

    reason, message = installation.failed_run()

    assert reason == "Evicted", message
    assert 'EmptyDir volume "scratch" exceeds the limit "20971520"' in message
    (report,) = reports(installation)
    assert report["reason"] == "Evicted"


def test_a_full_volume_is_named_and_keeps_what_is_delivered(
    install: Install, site: FaultySite
) -> None:
    installation = install()
    mount_disk(installation.courses, "500k")  # two of the three lectures
    installation.enroll(f"{site.url}/feed")

    reason, message = installation.failed_run()

    assert reason == "DestinationQuota" and "No space left on device" in message, message
    assert "at the destination" in message, message
    (report,) = reports(installation)
    files = list(installation.courses.rglob("*.mp4"))
    assert report["items_delivered"] == len(files) == 2
    assert {path.read_bytes() for path in files} <= {each.content for each in site.lectures}


def test_a_volume_that_is_mounted_read_only_is_named(install: Install, site: FaultySite) -> None:
    claim = {"claimName": "courses", "readOnly": True}
    volumes = [{"name": "destination", "persistentVolumeClaim": claim}]
    pod = {"volumes": volumes}
    installation = install(worker={"jobTemplate": {"spec": {"template": {"spec": pod}}}})
    installation.enroll(f"{site.url}/feed")

    reason, message = installation.failed_run()

    assert reason == "DestinationAuth" and "Read-only file system" in message, message


def test_a_volume_that_the_worker_may_not_write_is_named(
    install: Install, site: FaultySite
) -> None:
    """Such as an NFS export: the kubelet does not change its owner."""
    installation = install(podSecurityContext={"fsGroup": None})
    installation.enroll(f"{site.url}/feed")

    reason, message = installation.failed_run()

    assert reason == "DestinationAuth" and "Permission denied" in message, message


def test_a_run_that_takes_too_long_is_stopped(install: Install, site: FaultySite) -> None:
    site.rate = 1_000
    installation = install(runTimeout="10s")
    installation.enroll(f"{site.url}/feed")

    reason, message = installation.failed_run()

    assert reason == "DeadlineExceeded", message


def test_a_deleted_pod_ends_in_time_and_is_replaced(install: Install, site: FaultySite) -> None:
    site.rate = 20_000
    installation = install(maxAttempts=3, stopGrace="20s")
    installation.enroll(f"{site.url}/feed")
    pod = installation.wait_for_running_worker()["metadata"]["name"]
    installation.wait_for(lambda: site.media_bytes or site.sent, "the download has begun")
    installation.kubectl("delete", "pod", pod, "--wait=false")
    codes = set[int]()

    def is_gone() -> bool:
        pods = {each["metadata"]["name"]: each for each in installation.worker_pods()}
        for status in pods.get(pod, {}).get("status", {}).get("containerStatuses", ()):
            if "terminated" in status["state"]:
                codes.add(status["state"]["terminated"]["exitCode"])
        return pod not in pods

    installation.wait_for(is_gone, "the pod has ended")
    assert codes <= {EXIT_RETRYABLE}, "it ended by itself, not by SIGKILL"
    site.rate = 0
    assert installation.wait_until_final() == "completed", installation.runs()
    assert len(installation.runs()) == 1
    files = sorted(installation.courses.rglob("*.mp4"))
    assert [path.read_bytes() for path in files] == [each.content for each in site.lectures]


def test_a_deleted_row_stops_its_worker_within_the_grace_period(
    install: Install, site: FaultySite
) -> None:
    site.rate = 1_000
    installation = install(stopGrace="20s")
    installation.enroll(f"{site.url}/feed")
    installation.wait_for_running_worker()

    installation.sql("DELETE FROM download_tasks")

    installation.wait_for(lambda: not installation.worker_pods(), "no worker is left")
    assert installation.ended_run("revoked")[0] == "TaskNotFound"
