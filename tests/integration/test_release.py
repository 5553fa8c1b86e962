"""The rehearsal of a release, the checks before it, and the workflows that publish it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from scripts import release_artifacts, release_check
from scripts.release_artifacts import FOLDER, IMAGE, ReleaseError, read_version
from tests.conftest import absent
from tests.repository import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
FILES = ("pyproject.toml", "CHANGELOG.md", "charts/enrollgate/Chart.yaml")
VERSION = read_version(REPOSITORY)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of the files that name the version, with a date in the changelog."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(
            text.replace(f"## {VERSION} - unreleased", f"## {VERSION} - 2026-12-01")
        )
    return tmp_path


@pytest.mark.slow
def test_rehearsal_builds_signs_and_verifies_all_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("registry", "tool-venv release", "helm-kubectl"):
        words = [f"{REPOSITORY}/scripts/{command.split()[0]}", *command.split()[1:]]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            absent(command, done.stderr)
    monkeypatch.setattr("sys.argv", ["release_check"])
    assert release_check.main() == 0, capsys.readouterr().err

    bill = json.loads((FOLDER / f"enrollgate-{VERSION}.cdx.json").read_text())
    locked = (REPOSITORY / "requirements" / "runtime.txt").read_text()
    assert {(each["name"], each["version"]) for each in bill["components"]} >= set(
        re.findall(r"^([\w.-]+)==([^\s;\\]+) \\$", locked, re.MULTILINE)
    )
    assert bill["metadata"]["component"]["name"] == "enrollgate"
    assert (FOLDER / "notes.md").read_text().startswith("### ")


@pytest.mark.slow
def test_chart_whose_signature_helm_does_not_check_fails_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A helm that ignores `--verify` stands for one whose verification has no effect."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "registry"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        absent("docker-registry", done.stderr)
    FOLDER.mkdir(parents=True, exist_ok=True)
    release_artifacts.package_chart(VERSION)
    real = release_artifacts.helm
    monkeypatch.setattr(
        release_check, "helm", lambda *words: real(*(word for word in words if word != "--verify"))
    )
    with pytest.raises(ReleaseError, match="helm accepts a chart without a signature"):
        release_check.check_chart(VERSION, tmp_path)


def test_version_with_its_tag_and_a_dated_section_is_accepted(repository: Path) -> None:
    assert read_version(repository, f"v{VERSION}") == VERSION


@pytest.mark.parametrize(
    ("name", "old", "new", "tag", "message"),
    [
        (FILES[2], f"version: {VERSION}", "version: 9.9.9", None, "Chart.yaml: version is 9.9.9"),
        (FILES[2], f'"{VERSION}"', '"9.9.9"', None, "Chart.yaml: appVersion is 9.9.9"),
        (FILES[0], f'"{VERSION}"', '"9.9.9"', None, f"is {VERSION}, and pyproject.toml has 9.9.9"),
        (FILES[1], f"## {VERSION} ", "## 9.9.9 ", None, f"has no section `## {VERSION}`"),
        (FILES[1], "2026-12-01", "unreleased", f"v{VERSION}", "has no date"),
        (FILES[0], "", "", "v9.9.9", "the tag is 9.9.9"),
    ],
)
def test_version_that_one_place_does_not_name_is_refused(
    repository: Path, name: str, old: str, new: str, tag: str | None, message: str
) -> None:
    path = repository / name
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ReleaseError) as caught:
        read_version(repository, tag)
    assert message in str(caught.value)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_each_action_by_digest_and_names_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: *(.+)", workflow.read_text(encoding="utf-8"))
    assert used
    for each in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_grants_only_what_a_job_needs(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert content["permissions"] in ({}, {"contents": "read"})
    for name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        assert "write-all" not in str(job.get("permissions")), name


def test_workflows_run_targets_that_exist_and_publish_what_the_pages_name() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    run = {
        word
        for line in re.findall(r"\bmake ([^\n]+)", text)
        for word in line.split()
        if "=" not in word
    }
    assert {"lint", "test", "test-cluster", "test-node", "release-check"} <= run <= targets
    releasing = (REPOSITORY / "docs" / "releasing.md").read_text(encoding="utf-8")
    for name in (IMAGE, "ghcr.io/enrollgate/charts"):
        assert name in text and name in releasing


def test_actionlint_finds_nothing_in_the_workflows() -> None:
    built = subprocess.run(
        [REPOSITORY / "scripts" / "actionlint"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        absent("actionlint", built.stderr)
    done = subprocess.run(
        [built.stdout.strip(), *WORKFLOWS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
