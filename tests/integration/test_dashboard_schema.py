"""The dashboard agrees with Grafana's own types of a dashboard: nothing lacks, nothing is unknown.

Grafana publishes them as @grafana/schema. They also have the options of each kind of panel, which a
dashboard's type leaves open.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripts.monitoring import dashboard
from tests.conftest import absent
from tests.repository import REPOSITORY

# `Plain` takes the values of an enumeration for its members, as JSON has them.
HEAD = """\
import type { Dashboard, Panel, RowPanel } from '@grafana/schema'
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen'
import type { Options as TimeSeries } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen'
type Plain<T> = unknown extends T ? T : T extends string ? `${T}`
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T
type Shown<O> = Omit<Plain<Panel>, 'options'> & { options: Plain<Partial<O>> }
"""  # noqa: E501 -- addresses of modules
TYPES = {"row": "Plain<RowPanel>", "stat": "Shown<Stat>", "timeseries": "Shown<TimeSeries>"}


@pytest.fixture(scope="module")
def schema() -> Path:
    """Return the folder with Grafana's types and a compiler."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "grafana-schema"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        absent("Grafana's schema", done.stderr.strip()[-300:])
    return Path(done.stdout.strip())


def check(schema: Path, folder: Path, model: Mapping[str, Any]) -> str:
    """Return what the compiler has against a dashboard."""
    values = [("Plain<Dashboard>", {**model, "panels": []})]
    values += [(TYPES[panel["type"]], panel) for panel in model["panels"]]
    lines = (
        f"export const value{number}: {kind} = {json.dumps(value)}\n"
        for number, (kind, value) in enumerate(values)
    )
    (folder / "node_modules").symlink_to(schema / "node_modules")
    (folder / "dashboard.ts").write_text(HEAD + "".join(lines), encoding="utf-8")
    options = "--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext"
    done = subprocess.run(
        ["node_modules/.bin/tsc", *options.split(), "dashboard.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_dashboard_agrees_with_the_schema_of_grafana(schema: Path, tmp_path: Path) -> None:
    assert check(schema, tmp_path, json.loads(dashboard.render())) == ""


def test_dashboard_with_unknown_or_missing_fields_is_noticed(schema: Path, tmp_path: Path) -> None:
    model = json.loads(dashboard.render())
    stat = next(panel for panel in model["panels"] if panel["type"] == "stat")
    stat["options"]["graphMode"] = "bars"
    model["templating"]["list"][0]["lable"] = "Prometheus"
    panel = next(panel for panel in model["panels"] if panel["type"] == "timeseries")
    del panel["options"]["legend"]["calcs"]
    problems = check(schema, tmp_path, model)
    for word in ("bars", "lable", "calcs"):
        assert word in problems, (word, problems)
