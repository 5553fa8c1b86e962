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
