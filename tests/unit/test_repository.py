"""What must hold of the repository itself."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.conftest import absent
from tests.image.image_root import base_image
from tests.repository import PACKAGE, REPOSITORY, tracked_files


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    assert not (REPOSITORY / "operator" / "__init__.py").exists()


def test_every_module_has_a_docstring() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_every_package_has_an_init() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert (folder / "__init__.py").exists(), folder


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("domain", ("enrollgate.domain", "enrollgate.common")),
        ("common", ("enrollgate.common",)),
    ],
)
def test_a_low_layer_imports_only_the_standard_library(
    package: str, allowed: tuple[str, ...]
) -> None:
    others = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in (PACKAGE / package).rglob("*.py")
        for name in _imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(name == own or name.startswith(f"{own}.") for own in allowed)
    }
    assert not others


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(
        r"(pypi|pythonhosted|npmjs|debian)\.(org|com)\b|(proxy|sum)\.golang\.org|registry\.(npmjs|yarnpkg)",
        re.IGNORECASE,
    )
    for path in tracked_files():
        if path.suffix not in (".png", ".ico") and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not hosts.search(text), path


@pytest.mark.parametrize("lock", ["runtime.txt", "dev.txt"])
def test_the_lock_matches_the_project(lock: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["ffmpeg"]]
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


def test_the_tests_run_on_the_python_of_the_image() -> None:
    """The lock names it, too: hashes are those of all its wheels."""
    wanted = base_image().removeprefix("python:").rpartition(".")[0]
    classifiers = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {wanted}" in classifiers["classifiers"]
    assert f"for candidate in ${{PYTHON:-}} python{wanted} " in (
        REPOSITORY / "scripts" / "setup"
    ).read_text(encoding="utf-8")
    if wanted != f"{sys.version_info.major}.{sys.version_info.minor}":
        absent(f"Python {wanted}", "let PYTHON name one for scripts/setup")
