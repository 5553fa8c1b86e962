"""Measure the shape of the code: `python -m scripts.metrics [PATH ...]`.

docs/architecture.md quotes the figures.

A private function is one whose name begins with an underscore. A function's length is its lines
from `def` to its last line.
"""

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "operator" / "enrollgate"
LONGEST_LINE = 100
LONGEST_FUNCTION = 60
MOST_CALLED_ONCE = 0.12
MEDIAN_FUNCTION = 8
TOP_FILES = 5
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function or method of the package."""

    path: Path
    name: str
    line: int
    length: int

    @property
    def is_private(self) -> bool:
        """Whether it is an implementation detail: `_name`, but no `__dunder__`."""
        return self.name.startswith("_") and not self.name.endswith("__")


def functions(path: Path) -> Iterator[Function]:
    """Yield all functions and methods of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, _Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(path, node.name, node.lineno, length)


def called_once(path: Path) -> list[Function]:
    """Return the private functions of a file that are used in one place of it, by a call.

    What is passed by its name (a validator, a callback, the target of a thread) cannot be inlined,
    and neither can what overrides a method of a library. Both are left out.
    """
    uses, calls = Counter[str](), Counter[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute):
            uses[_name(node)] += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            calls[_name(node.func)] += not _is_super(node.func)
    return [
        each
        for each in functions(path)
        if each.is_private and uses[each.name] == calls[each.name] == 1
    ]


def _name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def _is_super(function: ast.expr) -> bool:
    """Whether it is `super().method`: then the method overrides another one."""
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == "super"
    )


def main(arguments: list[str]) -> int:
    """Print the figures, with the places that miss a target. Returns 1 if one is missed."""
    roots = [Path(each).resolve() for each in arguments] or [PACKAGE]
    paths = sorted(
        path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))
    )
    found = [function for path in paths for function in functions(path)]
    once = [function for path in paths for function in called_once(path)]
    long_lines = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    longest = [each for each in found if each.length > LONGEST_FUNCTION]
    median = statistics.median(each.length for each in found) if found else 0
    share = len(once) / len(found) if found else 0.0
    top = sorted(path.name for path in PACKAGE.glob("*.py"))
    checks = [
        (
            share <= MOST_CALLED_ONCE,
            f"private functions called once: {len(once)} of {len(found)} functions ({share:.0%})",
            [f"{each.path.relative_to(REPOSITORY)}:{each.line} {each.name}" for each in once],
        ),
        (
            median >= MEDIAN_FUNCTION,
            f"median function: {median:g} lines of {len(found)} functions",
            [],
        ),
        (
            not longest,
            f"functions over {LONGEST_FUNCTION} lines: {len(longest)}",
            [
                f"{each.path.relative_to(REPOSITORY)}:{each.line} {each.name} ({each.length})"
                for each in longest
            ],
        ),
        (
            len(top) <= TOP_FILES,
            f"Python files at the package's top: {len(top)} ({', '.join(top)})",
            [],
        ),
        (not long_lines, f"lines over {LONGEST_LINE} characters: {len(long_lines)}", long_lines),
    ]
    for is_met, text, places in checks:
        print(("ok     " if is_met else "missed ") + text)
        for place in places if not is_met else ():
            print(f"       {place}")
    return 0 if all(is_met for is_met, *_ in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
