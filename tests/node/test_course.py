"""A course in a real pod, from `helm install` to delivered files."""

from collections.abc import Callable

from tests.cluster.chart import REPOSITORY
from tests.faulty_site import FaultySite
from tests.node.installation import RELEASE, Installation


def test_an_enrolled_row_becomes_a_delivered_course(
    install: Callable[..., Installation], site: FaultySite
) -> None:
    installation = install(replicas=2)
    installation.enroll(f"{site.url}/feed")

    assert installation.wait_until_final() == "completed", installation.runs()

    ((outcome, reason, message),) = installation.runs()
    assert (outcome, reason) == ("succeeded", None) and message.startswith("3 items delivered")
    files = sorted(installation.courses.rglob("*.mp4"))
    assert [path.read_bytes() for path in files] == [each.content for each in site.lectures]
    shown = transcript(installation)
    assert "Complete   1/1" in shown and "[ATTEMPT 1/1] task 1: complete" in shown
    assert "ada@example.com" not in shown
    tested = installation.helm("test", RELEASE, "--logs")
    assert "Succeeded" in tested and "destination: /courses is writable" in tested
    assert "no Kubernetes cluster is configured" not in tested


def test_any_user_id_delivers_a_course(
    install: Callable[..., Installation], site: FaultySite
) -> None:
    """As OpenShift runs pods: an id of the project's range, and the group 0."""
    user = 1_000_680_000
    ids = {"runAsUser": user, "runAsGroup": 0, "fsGroup": user}
    installation = install(podSecurityContext=ids)
    installation.enroll(f"{site.url}/feed")

    assert installation.wait_until_final() == "completed", installation.runs()

    shown = installation.kubectl("exec", f"deploy/{RELEASE}", "--", "python", "-c", _WHO)
    assert shown.split() == [str(user), "0"]
    (pod,) = installation.worker_pods()
    assert pod["spec"]["securityContext"].items() >= ids.items()
    files = list(installation.courses.rglob("*.mp4"))
    assert len(files) == len(site.lectures) and {path.stat().st_uid for path in files} == {user}


_WHO = "import os; print(os.getuid(), os.getgid())"


def test_progress_and_log_of_a_live_worker_come_through_the_kubelet(
    install: Callable[..., Installation], site: FaultySite
) -> None:
    site.rate = 6_000
    installation = install()
    installation.enroll(f"{site.url}/feed")
    seen = set[int]()

    def moves() -> bool:
        for state, done in installation.sql("SELECT state, bytes_done FROM enrollgate_task_status"):
            if state == "running" and done:
                seen.add(done)
        return len(seen) >= 3

    installation.wait_for(moves, "its progress moves")
    assert max(seen) < site.size
    log = installation.kubectl("logs", f"job/{RELEASE}-1-1")
    assert "[ATTEMPT 1/1] course 'A course', 3 items" in log
    in_pod = ("exec", f"deploy/{RELEASE}", "--", "enrollgate")
    assert "[ATTEMPT 1/1]" in installation.kubectl(*in_pod, "logs", "1")
    shown = installation.kubectl(*in_pod, "explain", "1")
    assert "running" in shown.splitlines()[0], shown
    assert "ada@example.com" not in log + shown
    site.rate = 0
    assert installation.wait_until_final() == "completed", installation.runs()


def transcript(installation: Installation) -> str:
    """Show what an engineer sees of the run.

    It is also written to build/transcript.txt; `scripts/transcript.py` puts it into the docs.
    """
    shown = ""
    for command in (
        ["get", "jobs,pods", "-l", "app.kubernetes.io/component=worker"],
        ["describe", "pod", "-l", "app.kubernetes.io/component=worker"],
        ["logs", f"job/{RELEASE}-1-1"],
    ):
        shown += f"$ kubectl {' '.join(command)}\n{installation.kubectl(*command)}\n"
    shown = shown.replace(installation.namespace, "courses")
    (REPOSITORY / "build").mkdir(exist_ok=True)
    (REPOSITORY / "build" / "transcript.txt").write_text(shown.rstrip() + "\n")
    return shown
