"""Build what a release publishes: `python -m scripts.release_artifacts [--tag TAG]`.

build/release gets the wheel and the source archive (`python/`), the chart as it is published, the
list of dependencies as CycloneDX (SBOM), and the release's notes. The image is built by
.github/workflows/release.yml, since that needs a container engine. With `--tag`, the tag must name
the version, and the changelog must give it a date.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "build" / "release"
PACKAGE = Path("operator/enrollgate")
IMAGE = "ghcr.io/enrollgate/enrollgate"
# Values without which the chart refuses to render.
EXAMPLE = (
    "--set=database.existingSecret=courses-database",
    "--set=destination=drive:1AbCdEfGhIjKlMnOpQrStUvWxYz",
    "--set=drive.existingSecret=courses-drive",
)


class ReleaseError(Exception):
    """Report why a release cannot be made: the thing, the value and the remedy."""


@dataclass(frozen=True)
class Artifacts:
    """The files of a release."""

    wheel: Path
    source: Path
    chart: Path
    sbom: Path
    notes: Path


def read_version(repository: Path, tag: str | None = None) -> str:
    """Return the version of project and chart, and check that all places agree with it.

    Raises ReleaseError.
    """
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    version = str(project["project"]["version"])
    chart = yaml.safe_load((repository / "charts/enrollgate/Chart.yaml").read_text())
    found = {
        "charts/enrollgate/Chart.yaml: version": chart["version"],
        "charts/enrollgate/Chart.yaml: appVersion": chart["appVersion"],
    }
    if tag is not None:
        found["the tag"] = tag.removeprefix("v")
    for place, other in found.items():
        if other != version:
            raise ReleaseError(f"{place} is {other}, and pyproject.toml has {version}: change one")
    heading = _section(repository, version).partition("\n")[0]
    if tag is not None and not re.search(r"\d{4}-\d{2}-\d{2}", heading):
        raise ReleaseError(f"CHANGELOG.md: `{heading}` has no date: write the day of the release")
    return version


def _section(repository: Path, version: str) -> str:
    """Return the changelog's section of a version, with its heading. Raises ReleaseError."""
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(version)}\b.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ReleaseError(f"CHANGELOG.md has no section `## {version}`: write it")
    return found[0]


def build(version: str) -> Artifacts:
    """Build all files of a release into build/release, and check them. Raises ReleaseError."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    wheel, source = build_python(version)
    notes = FOLDER / "notes.md"
    notes.write_text(_section(REPOSITORY, version).partition("\n")[2].strip() + "\n")
    return Artifacts(wheel, source, package_chart(version), write_sbom(version), notes)


def build_python(version: str) -> tuple[Path, Path]:
    """Build the wheel and the source archive, and check them. Raises ReleaseError."""
    folder = FOLDER / "python"
    run(".venv/bin/uv", "build", "--quiet", "--no-build-isolation", "--out-dir", folder)
    wheel = folder / f"enrollgate-{version}-py3-none-any.whl"
    source = folder / f"enrollgate-{version}.tar.gz"
    tools = run("scripts/tool-venv", "release").strip()
    run(f"{tools}/twine", "check", "--strict", wheel, source)
    # W004: Alembic's revisions have names that cannot be imported.
    run(f"{tools}/check-wheel-contents", "--ignore=W004", wheel)
    wanted = set(run("git", "ls-files", PACKAGE).split())
    packed = {f"operator/{name}" for name in zipfile.ZipFile(wheel).namelist()}
    if missing := wanted - packed:
        raise ReleaseError(
            f"the wheel lacks {', '.join(sorted(missing))}: add them to "
            "`tool.setuptools.package-data` in pyproject.toml"
        )
    return wheel, source


def package_chart(version: str) -> Path:
    """Package the chart with the published image as its default. Raises ReleaseError."""
    copy = FOLDER / "chart" / "enrollgate"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(REPOSITORY / "charts" / "enrollgate", copy)
    values = copy / "values.yaml"
    text, changed = re.subn(
        r"^  repository: enrollgate$", f"  repository: {IMAGE}", values.read_text(), flags=re.M
    )
    if changed != 1:
        raise ReleaseError("charts/enrollgate/values.yaml: image.repository is not `enrollgate`")
    values.write_text(text)
    helm("lint", "--strict", copy, *EXAMPLE)
    helm("package", copy, "--destination", FOLDER)
    return FOLDER / f"enrollgate-{version}.tgz"


def write_sbom(version: str) -> Path:
    """Write the dependencies with their licenses and hashes as CycloneDX. Raises ReleaseError."""
    path = FOLDER / f"enrollgate-{version}.cdx.json"
    tools = run("scripts/tool-venv", "release").strip()
    run(
        f"{tools}/cyclonedx-py",
        "requirements",
        "requirements/runtime.txt",
        "--pyproject=pyproject.toml",
        "--mc-type=application",
        "--output-reproducible",
        "--of=JSON",
        f"--output-file={path}",
    )
    return path


def helm(*arguments: str | Path) -> str:
    """Run the pinned helm and return what it prints. Raises ReleaseError."""
    return run(f"{run('scripts/helm-kubectl').strip()}/helm", *arguments)


def run(*command: str | Path, **environment: str) -> str:
    """Run a command in the repository and return what it prints. Raises ReleaseError."""
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = " ".join(map(str, command))
        raise ReleaseError(f"`{shown}` failed:\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def main() -> int:
    """Build everything. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    try:
        artifacts = build(read_version(REPOSITORY, parser.parse_args().tag))
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    for path in vars(artifacts).values():
        print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
