"""Write the chart's README from the comments of its values.

Run `python -m scripts.docs.chart_readme [--check FILE]`.

A comment `# -- text` describes the value below it. A value without such a comment is an error.
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

The chart needs Kubernetes {kubernetes} and a MySQL or MariaDB server. All its objects are in one
namespace, which several releases may share. Start with the
[quick start](../../docs/kubernetes.md), then read [operations](../../docs/operations.md).
[Settings](../../docs/settings.md) describes the settings behind the values in more detail.
Helm rejects unknown and invalid values.

This page is generated from values.yaml: `make docs`.

| value | default | meaning |
| --- | --- | --- |
"""


def render() -> str:
    """Return the page as Markdown."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    kubernetes = chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0") + " or newer"
    rows = "".join(
        f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in read_values()
    )
    return _HEAD.format(description=chart["description"], kubernetes=kubernetes) + rows


def read_values() -> Iterator[tuple[str, str, str]]:
    """Yield the dotted name, the default and the meaning of each value in values.yaml."""
    path: list[str] = []
    meaning = ""
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("# -- "):
            meaning = line.strip().removeprefix("# -- ").replace("|", "\\|")
        elif match := _LINE.fullmatch(line):
            depth = len(match["indent"]) // 2
            path = [*path[:depth], match["name"]]
            if not meaning:
                name = ".".join(path)
                raise SystemExit(f"values.yaml: {name} has no comment: write `# -- ...` above it")
            default = "" if match["value"] in (None, '""') else f"`{match['value']}`"
            yield ".".join(path), default, meaning
            meaning = ""


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
