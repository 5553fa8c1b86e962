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
    done = subprocess.run([tools() / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize(
    "script", [("chart_readme.py", "--check", "charts/enrollgate/README.md"), ("manifests.py", "--check")]
)
def test_what_is_generated_is_in_step(script: tuple[str, ...]) -> None:
    name, *arguments = script
    done = subprocess.run([sys.executable, REPOSITORY / "scripts" / name, *arguments], cwd=REPOSITORY, check=False)

    assert done.returncode == 0, "run `make docs manifests`"


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text((REPOSITORY / "charts" / "enrollgate" / "README.md").read_text(encoding="utf-8") + "by hand\n")
    script = REPOSITORY / "scripts" / "chart_readme.py"
    done = subprocess.run([sys.executable, script, "--check", page], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "stale" in done.stderr


@pytest.mark.parametrize("layer", ["base", "example"])
def test_kustomize_builds_valid_restricted_objects(manifests: Path, layer: str) -> None:
    objects = kustomize(manifests / layer)

    assert not complain(objects)
    assert [unrestricted(pod) for pod in pods(objects)] == [[] for _ in pods(objects)]
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"enrollgate"}
    assert "helm" not in str(objects).lower()


def test_the_migration_runs_before_the_operator(manifests: Path) -> None:
    pod = one(kustomize(manifests / "base"), "Deployment")["spec"]["template"]["spec"]

    assert [each["args"] for each in pod["initContainers"]] == [["migrate"]]
    mounted = {each["name"] for container in pod["initContainers"] for each in container["volumeMounts"]}
    assert mounted <= {each["name"] for each in pod["volumes"]}


def test_every_secret_of_the_example_is_made_by_it_or_by_a_command_of_its_page(manifests: Path) -> None:
    """A worker whose Secret nobody makes waits for it, and its task fails."""
    objects = kustomize(manifests / "example")
    made = {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"}
    page = (REPOSITORY / "manifests" / "README.md").read_text(encoding="utf-8")
    settings = settings_of(one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0])
    named = {value for name, value in settings.items() if name.endswith("_SECRET") and value}

    assert named, "the example shows how one is named"
    assert {name for name in named - made if f"create secret generic {name} " not in page} == set()


def test_the_example_changes_what_it_says(manifests: Path) -> None:
    objects = kustomize(manifests / "example")
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    settings = settings_of(pod["containers"][0])
    secret = one(objects, "Secret")["metadata"]["name"]
    references = [
        each["valueFrom"] for each in pod["containers"][0]["env"] if "secretKeyRef" in each.get("valueFrom", {})
    ]

    assert settings["ENROLLGATE_KUBERNETES__IMAGE"] == "registry.example.com/enrollgate:0.1.0"
    assert settings["ENROLLGATE_KUBERNETES__IMAGE_PULL_POLICY"] == "IfNotPresent"
    assert settings["ENROLLGATE_MAX_CONCURRENT_RUNS"] == "8"
    assert {each["image"] for each in (*pod["initContainers"], *pod["containers"])} == {
        "registry.example.com/enrollgate:0.1.0"
    }
    assert {each["secretKeyRef"]["name"] for each in references} == {secret}


@pytest.mark.parametrize("page", ["charts/enrollgate/README.md", "docs/kubernetes.md", "docs/operations.md"])
def test_what_a_page_tells_to_install_can_be_installed(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values, and its `helm install` put as `helm template`."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    commands = re.findall(r"^helm install (.+)$", text.replace("\\\n", " "), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "charts").symlink_to(REPOSITORY / "charts")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        (tmp_path / "values.yaml").write_text(block, encoding="utf-8")

    assert commands
    for command in commands:
        waits = "--wait" in command.split() and "destinationVolume.create=true" in command
        assert not waits, "the claim is bound by the first worker: it would wait for ever"
        done = helm("template", *(word for word in shlex.split(command) if word != "--wait"))
        assert done.returncode == 0, done.stderr
