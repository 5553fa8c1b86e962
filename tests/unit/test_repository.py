"""What must hold of the repository itself."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "operator" / "enrollgate"


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:  # an unpacked archive
        return [
            path for path in REPOSITORY.rglob("*") if path.is_file() and ".venv" not in path.parts
        ]
    return [REPOSITORY / name for name in done.stdout.splitlines() if (REPOSITORY / name).is_file()]


def test_the_operator_folder_never_shadows_the_standard_library() -> None:
    assert not (REPOSITORY / "operator" / "__init__.py").exists()


def test_every_module_tells_its_story() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_no_package_is_without_its_init() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert (folder / "__init__.py").exists(), folder


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(
        r"(pypi|pythonhosted|npmjs|debian)\.(org|com)\b|(proxy|sum)\.golang\.org|registry\.(npmjs|yarnpkg)",
        re.IGNORECASE,
    )
    for path in tracked():
        if path.suffix not in (".png", ".ico") and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not hosts.search(text), path


@pytest.mark.parametrize("lock", ["runtime.txt", "dev.txt"])
def test_the_lock_is_in_step_with_the_project(lock: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    if lock == "dev.txt":
        wanted += project["optional-dependencies"]["demo"] + project["optional-dependencies"]["dev"]
    text = (REPOSITORY / "requirements" / lock).read_text()
    pinned = {
        name.lower(): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    }
    for line in wanted:
        requirement = Requirement(line)
        assert pinned[requirement.name.lower()] in requirement.specifier, f"{line}: run `make lock`"
    assert text.count("--hash=") >= len(pinned)
