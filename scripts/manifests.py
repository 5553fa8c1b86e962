"""Render manifests/base from the chart: `python -m scripts.manifests [--check]`.

The doctor's pod, a hook of Helm, and its NetworkPolicy are left out: use
`kubectl exec deploy/enrollgate -- enrollgate doctor`. Labels and annotations of Helm are removed.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from scripts.docs.generated import print_or_check

REPOSITORY = Path(__file__).parents[1]
BASE = REPOSITORY / "manifests" / "base"
_HEAD = (
    "# Rendered from charts/enrollgate with manifests/values.yaml: `make manifests`. "
    "Do not edit: use an overlay.\n"
)
Json = dict[str, Any]


def render() -> str:
    """Return all objects of the base as one YAML stream."""
    found = subprocess.run(
        [REPOSITORY / "scripts" / "helm-kubectl"], check=True, capture_output=True, text=True
    )
    helm = [found.stdout.strip() + "/helm", "template", "enrollgate"]
    helm += [str(REPOSITORY / "charts" / "enrollgate"), "--namespace", "enrollgate"]
    helm += ["--values", str(REPOSITORY / "manifests" / "values.yaml")]
    rendered = subprocess.run(helm, check=True, capture_output=True, text=True).stdout
    return _HEAD + yaml.safe_dump_all(
        from_chart(list(yaml.safe_load_all(rendered))), sort_keys=False, width=120
    )


def from_chart(objects: list[Json]) -> list[Json]:
    """Return the chart's objects without the doctor, and without what only Helm reads."""
    (doctor,) = (each["metadata"]["name"] for each in objects if each["kind"] == "Pod")
    return [_without_helm(each) for each in objects if each["metadata"]["name"] != doctor]


def _without_helm(thing: Any) -> Any:
    if isinstance(thing, list):
        return [_without_helm(each) for each in thing]
    if not isinstance(thing, dict):
        return thing
    cleaned = {
        name: _without_helm(value)
        for name, value in thing.items()
        if not name.startswith(("helm.sh/", "checksum/"))
        and (name, value) != ("app.kubernetes.io/managed-by", "Helm")
    }
    return {name: value for name, value in cleaned.items() if (name, value) != ("annotations", {})}


if __name__ == "__main__":
    target = BASE / "enrollgate.yaml"
    if sys.argv[1:] == ["--check"]:
        sys.exit(print_or_check(render(), ["--check", str(target)]))
    target.write_text(render(), encoding="utf-8")
