"""Pages and manifests generated from the chart, and the install commands in the docs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import (
    Json,
    container_settings,
    one,
    pod_security_violations,
    pods,
    schema_errors,
)
from tests.cluster.chart import REPOSITORY, helm, tools


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Copy the manifests and add the example's database.env."""
    folder = tmp_path / "manifests"
    shutil.copytree(REPOSITORY / "manifests", folder)
    shutil.copy(folder / "example" / "database.env.example", folder / "example" / "database.env")
    return folder


def kustomize(folder: Path) -> list[Json]:
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
def test_generated_files_are_up_to_date(script: tuple[str, ...]) -> None:
    name, *arguments = script
    done = subprocess.run([sys.executable, "-m", name, *arguments], cwd=REPOSITORY, check=False)

    assert done.returncode == 0, "run `make docs manifests`"


def test_check_fails_when_a_page_was_edited_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        (REPOSITORY / "charts" / "enrollgate" / "README.md").read_text(encoding="utf-8")
        + "by hand\n"
    )
    command = [sys.executable, "-m", "scripts.docs.chart_readme", "--check", str(page)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "stale" in done.stderr


@pytest.mark.parametrize("layer", ["base", "example"])
def test_kustomize_builds_valid_and_restricted_objects(manifests: Path, layer: str) -> None:
    objects = kustomize(manifests / layer)

    assert not schema_errors(objects)
    assert [pod_security_violations(pod) for pod in pods(objects)] == [[] for _ in pods(objects)]
    assert {
        each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"
    } == {"enrollgate"}
    assert "helm" not in str(objects).lower()


def test_migration_is_an_init_container_of_the_operator(manifests: Path) -> None:
    pod = one(kustomize(manifests / "base"), "Deployment")["spec"]["template"]["spec"]

    assert [each["args"] for each in pod["initContainers"]] == [["migrate"]]
    mounted = {
        each["name"] for container in pod["initContainers"] for each in container["volumeMounts"]
    }
    assert mounted <= {each["name"] for each in pod["volumes"]}


def test_example_sets_its_image_settings_and_secret(manifests: Path) -> None:
    objects = kustomize(manifests / "example")
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    settings = container_settings(pod["containers"][0])
    secret = one(objects, "Secret")["metadata"]["name"]
    references = [each["valueFrom"] for each in pod["containers"][0]["env"] if _is_secret(each)]

    assert settings["ENROLLGATE_KUBERNETES__IMAGE"] == "registry.example.com/enrollgate:0.1.0"
    assert settings["ENROLLGATE_KUBERNETES__IMAGE_PULL_POLICY"] == "IfNotPresent"
    assert settings["ENROLLGATE_MAX_CONCURRENT_RUNS"] == "8"
    assert {each["image"] for each in (*pod["initContainers"], *pod["containers"])} == {
        "registry.example.com/enrollgate:0.1.0"
    }
    assert {each["secretKeyRef"]["name"] for each in references} == {secret}


def test_every_secret_of_the_example_is_created(manifests: Path) -> None:
    """A worker without its Secret does not start, and its task fails."""
    objects = kustomize(manifests / "example")
    generated = {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"}
    by_hand = re.findall(
        r"^kubectl -n enrollgate create secret generic (\S+)",
        _shell_commands(manifests),
        re.MULTILINE,
    )
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    (operator,) = pod["containers"]
    required = {
        text for name, text in container_settings(operator).items() if name.endswith("_SECRET")
    }
    required |= {
        each["valueFrom"]["secretKeyRef"]["name"] for each in operator["env"] if _is_secret(each)
    }
    required |= {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}

    assert len(required) == 2
    assert required == generated | set(by_hand)


def _shell_commands(manifests: Path) -> str:
    """Return the commands of the manifests' README."""
    (block,) = re.findall(
        r"```sh\n(.*?)```", (manifests / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    return str(block)


def _is_secret(variable: Json) -> bool:
    return "secretKeyRef" in variable.get("valueFrom", {})


InstallCommands = list[tuple[str, subprocess.CompletedProcess[str]]]
PAGES = [
    "README.md",
    "charts/enrollgate/README.md",
    "docs/kubernetes.md",
    "docs/openshift.md",
    "docs/operations.md",
]


@pytest.fixture
def install_commands(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstallCommands:
    """Run each `helm install` of a page as `helm template`, with the page's values.yaml."""
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
def test_install_commands_of_a_page_are_valid(install_commands: InstallCommands) -> None:
    for _, done in install_commands:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_no_page_uses_wait_with_a_created_volume(install_commands: InstallCommands) -> None:
    """Many storage classes bind a claim only when a worker mounts it: `--wait` would time out."""
    for command, done in install_commands:
        assert "--wait" not in command or "kind: PersistentVolumeClaim" not in done.stdout, command
