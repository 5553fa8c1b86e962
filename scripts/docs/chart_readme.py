"""Writes the chart's README from the comments of its values: `python -m scripts.docs.chart_readme [--check FILE]`.

A comment `# -- text` describes the value below it. A value without one is an error: nothing is left to guess.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from scripts.docs.generated import print_or_check

CHART = Path(__file__).parents[2] / "charts" / "enrollgate"
_LINE = re.compile(r"(?P<indent> *)(?P<name>[A-Za-z]+):(?: (?P<value>.+))?")
_HEAD = """# The Enrollgate chart

{description}

```sh
kubectl create namespace courses
kubectl create secret generic courses-database -n courses \\
    --from-literal=url='mysql://enrollgate:secret@mysql.example.com:3306/courses'
helm install enrollgate charts/enrollgate -n courses \\
    --set image.repository=registry.example.com/enrollgate \\
    --set database.existingSecret=courses-database \\
    --set destination=directory:/courses --set destinationVolume.create=true \\
    --set 'allowedHosts={{courses.example.com}}'
helm test enrollgate -n courses --logs
```

It needs Kubernetes {kubernetes} and a MySQL or MariaDB server. Everything it makes is in one namespace; several releases may
share one. [docs/kubernetes.md](../../docs/kubernetes.md) is the quick start, [docs/operations.md](../../docs/operations.md) what
comes after it, and [docs/settings.md](../../docs/settings.md) tells more of the settings behind the values. A value that does not
exist, or that cannot be right, is refused.

This page is generated from values.yaml: `make docs`.

| value | default | meaning |
| --- | --- | --- |
"""


def render() -> str:
    """The page as Markdown."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    kubernetes = chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0") + " or newer"
    rows = "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in _rows())
    return _HEAD.format(description=chart["description"], kubernetes=kubernetes) + rows


def _rows() -> Iterator[tuple[str, str, str]]:
    path: list[str] = []
    meaning = ""
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("# -- "):
            meaning = line.strip().removeprefix("# -- ").replace("|", "\\|")
        elif match := _LINE.fullmatch(line):
            depth = len(match["indent"]) // 2
            path = [*path[:depth], match["name"]]
            if not meaning:
                raise SystemExit(
                    f"values.yaml: {'.'.join(path)} has no comment: write `# -- what it is` above it"
                )
            default = "" if match["value"] in (None, '""') else f"`{match['value']}`"
            yield ".".join(path), default, meaning
            meaning = ""


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
