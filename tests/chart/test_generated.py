"""What is rendered from the chart and kept: its README and the manifests."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import complain, one, pods, settings_of, unrestricted
from tests.cluster.chart import REPOSITORY, helm, tools


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A copy of the folder, in which the example has its database.env."""
    folder = tmp_path / "manifests"
    shutil.copytree(REPOSITORY / "manifests", folder)
    shutil.copy(folder / "example" / "database.env.example", folder / "example" / "database.env")
    return folder


def kustomize(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [tools() / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize(
    "script",
    [
        ("scripts.docs.chart_readme", "--check", "charts/enrollgate/README.md"),
        ("scripts.manifests", "--check"),
    ],
)
def test_what_is_generated_is_in_step(script: tuple[str, ...]) -> None:
    name, *arguments = script
    done = subprocess.run([sys.executable, "-m", name, *arguments], cwd=REPOSITORY, check=False)

    assert done.returncode == 0, "run `make docs manifests`"


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        (REPOSITORY / "charts" / "enrollgate" / "README.md").read_text(encoding="utf-8")
        + "by hand\n"
    )
    command = [sys.executable, "-m", "scripts.docs.chart_readme", "--check", page]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "stale" in done.stderr


@pytest.mark.parametrize("layer", ["base", "example"])
def test_kustomize_builds_valid_restricted_objects(manifests: Path, layer: str) -> None:
    objects = kustomize(manifests / layer)

    assert not complain(objects)
    assert [unrestricted(pod) for pod in pods(objects)] == [[] for _ in pods(objects)]
    assert {
        each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"
    } == {"enrollgate"}
    assert "helm" not in str(objects).lower()


def test_the_migration_runs_before_the_operator(manifests: Path) -> None:
    pod = one(kustomize(manifests / "base"), "Deployment")["spec"]["template"]["spec"]

    assert [each["args"] for each in pod["initContainers"]] == [["migrate"]]
    mounted = {
        each["name"] for container in pod["initContainers"] for each in container["volumeMounts"]
    }
    assert mounted <= {each["name"] for each in pod["volumes"]}


def test_the_example_changes_what_it_says(manifests: Path) -> None:
    objects = kustomize(manifests / "example")
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(pod["containers"][0])
    secret = one(objects, "Secret")["metadata"]["name"]
    references = [each["valueFrom"] for each in pod["containers"][0]["env"] if _is_secret(each)]

    assert settings["ENROLLGATE_KUBERNETES__IMAGE"] == "registry.example.com/enrollgate:0.1.0"
    assert settings["ENROLLGATE_KUBERNETES__IMAGE_PULL_POLICY"] == "IfNotPresent"
    assert settings["ENROLLGATE_MAX_CONCURRENT_RUNS"] == "8"
    assert {each["image"] for each in (*pod["initContainers"], *pod["containers"])} == {
        "registry.example.com/enrollgate:0.1.0"
    }
    assert {each["secretKeyRef"]["name"] for each in references} == {secret}


def test_somebody_makes_each_secret_of_the_example(manifests: Path) -> None:
    """A worker waits for its Secret until its task fails."""
    objects = kustomize(manifests / "example")
    generated = {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"}
    by_hand = re.findall(
        r"^kubectl -n enrollgate create secret generic (\S+)", _commands(manifests), re.MULTILINE
    )
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    (operator,) = pod["containers"]
    wanted = {text for name, text in settings_of(operator).items() if name.endswith("_SECRET")}
    wanted |= {
        each["valueFrom"]["secretKeyRef"]["name"] for each in operator["env"] if _is_secret(each)
    }
    wanted |= {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}

    assert len(wanted) == 2
    assert wanted == generated | set(by_hand)


def _commands(manifests: Path) -> str:
    """What the page tells to do."""
    (block,) = re.findall(
        r"```sh\n(.*?)```", (manifests / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    return str(block)


def _is_secret(variable: dict[str, Any]) -> bool:
    return "secretKeyRef" in variable.get("valueFrom", {})


Told = list[tuple[str, subprocess.CompletedProcess[str]]]
PAGES = ["README.md", "charts/enrollgate/README.md", "docs/kubernetes.md", "docs/operations.md"]


@pytest.fixture
def told(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Each `helm install` of a page, put as `helm template`, with the page's values."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    commands = re.findall(r"^helm install (.+)$", text.replace("\\\n", " "), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "charts").symlink_to(REPOSITORY / "charts")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        (tmp_path / "values.yaml").write_text(block, encoding="utf-8")
    assert commands
    return [
        (each, helm("template", *(word for word in shlex.split(each) if word != "--wait")))
        for each in commands
    ]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_tells_to_install_can_be_installed(told: Told) -> None:
    for _, done in told:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_no_page_waits_for_a_volume_that_waits_for_a_worker(told: Told) -> None:
    """Many storage classes bind a claim only when a pod mounts it, and the operator does not."""
    for command, done in told:
        assert "--wait" not in command or "kind: PersistentVolumeClaim" not in done.stdout, command
