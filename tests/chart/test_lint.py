"""What `ct lint` checks of a chart before its release: YAML, metadata, and a new version."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.version import Version
from tests.cluster.chart import CHART, REPOSITORY

METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
HOME = "https://github.com/enrollgate/enrollgate"


@pytest.mark.parametrize("name", ["Chart.yaml", "values.yaml"])
def test_yaml_of_the_chart_follows_the_rules_of_ct_lint(name: str) -> None:
    rules = Path(__file__).parent / "yamllint.yaml"
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(rules), str(CHART / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_chart_says_who_made_it_and_where_it_is() -> None:
    """Without these, `ct lint` fails, or Artifact Hub shows a bare page."""
    assert METADATA["home"] == HOME and HOME in METADATA["sources"]
    assert METADATA["type"] == "application" and len(METADATA["keywords"]) >= 5
    for maintainer in METADATA["maintainers"]:
        # The name of an account: ct lint asks GitHub for it.
        assert re.fullmatch(r"[a-z0-9-]{1,39}", maintainer["name"])
        assert maintainer["url"] == f"https://github.com/{maintainer['name']}"
    annotations = METADATA["annotations"]
    assert annotations["artifacthub.io/license"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert annotations["artifacthub.io/operator"] == "true"


def test_every_address_of_the_chart_is_a_file_of_the_repository() -> None:
    links = [
        each["url"] for each in yaml.safe_load(METADATA["annotations"]["artifacthub.io/links"])
    ]
    raw = "https://raw.githubusercontent.com/enrollgate/enrollgate/main/"
    assert METADATA["icon"].startswith(raw) and len(links) == 3
    for url in (METADATA["icon"], *links):
        path = urlsplit(url).path.removeprefix("/enrollgate/enrollgate/")
        name = re.sub(r"^(blob/|tree/)?main/", "", path)
        assert name == "issues" or (REPOSITORY / name).exists(), url


def test_chart_and_program_have_the_same_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert METADATA["appVersion"] == project["version"]
    assert Version(METADATA["version"]) >= Version(project["version"])


def unreleased_changes(repository: Path) -> str | None:
    """Return why the chart needs a new version, or None.

    It does if its files differ from those of the last tag and its version does not.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*").strip()
    if not tag or not git("diff", "--name-only", tag, "--", "charts/enrollgate"):
        return None
    released = yaml.safe_load(git("show", f"{tag}:charts/enrollgate/Chart.yaml"))["version"]
    path = repository / "charts" / "enrollgate" / "Chart.yaml"
    version = yaml.safe_load(path.read_text(encoding="utf-8"))["version"]
    if Version(version) > Version(released):
        return None
    return f"the chart differs from {tag}: raise `version` in Chart.yaml above {released}"


def test_chart_that_changed_since_the_last_tag_has_a_new_version() -> None:
    assert not unreleased_changes(REPOSITORY)


@pytest.mark.parametrize(
    ("tagged", "version", "changed", "expected"),
    [
        (False, "0.1.0", True, None),
        (True, "0.1.0", False, None),
        (True, "0.1.1", True, None),
        (True, "0.10.0", True, None),
        (True, "0.1.0", True, "differs from v0.1.0: raise `version` in Chart.yaml above 0.1.0"),
        (True, "0.0.9", True, "differs from v0.1.0"),
    ],
)
def test_a_new_version_is_asked_for_when_the_chart_changed(
    tmp_path: Path, tagged: bool, version: str, changed: bool, expected: str | None
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True)

    chart = tmp_path / "charts" / "enrollgate"
    chart.mkdir(parents=True)
    (chart / "Chart.yaml").write_text("version: 0.1.0\n", encoding="utf-8")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    if tagged:
        git("tag", "v0.1.0")
    if changed:
        (chart / "Chart.yaml").write_text(f"version: {version}\n# new\n", encoding="utf-8")
    found = unreleased_changes(tmp_path)

    assert found is None if expected is None else expected in str(found)


def test_values_named_in_the_comparison_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    page = (REPOSITORY / "docs" / "comparison.md").read_text(encoding="utf-8")
    ours = [row.rsplit("|", 2)[1] for row in page.splitlines() if row.startswith("| ")][2:]
    named = {name for cell in ours for name in re.findall(r"`([a-zA-Z.]+)`", cell)}

    assert len(named) >= 20
    for name in named - {"global"}:
        found = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]
