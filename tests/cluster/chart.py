"""Helm and kubectl as their users call them."""

import os
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "enrollgate"


@cache
def tools() -> Path:
    """The folder with both programs."""
    found = subprocess.run([REPOSITORY / "scripts" / "helm-kubectl"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    return _run("helm", arguments, kubeconfig)


def kubectl(*arguments: str, kubeconfig: Path, stdin: str | None = None) -> str:
    done = _run("kubectl", arguments, kubeconfig, stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(
    program: str, arguments: tuple[str, ...], kubeconfig: Path | None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    return subprocess.run(
        [str(tools() / program), *arguments], env=environment, input=stdin, capture_output=True, text=True, check=False
    )


def grant(namespace: str, kubeconfig: Path) -> None:
    """Makes the chart's own service account and Role, as rendered for several replicas: both are called `school`."""
    values = "replicas=2,destination=drive:0123456789,database.existingSecret=none,installation=school"
    rendered = helm("template", "school", str(CHART), "-n", namespace, "-s", "templates/rbac.yaml", "--set", values,
                    "--set", "fullnameOverride=school")  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    kubectl("apply", "-n", namespace, "-f", "-", kubeconfig=kubeconfig, stdin=rendered.stdout)
