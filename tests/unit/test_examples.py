"""The examples agree with each other."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import absent

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_node_writer_creates_the_table_of_schema_sql() -> None:
    create = "CREATE TABLE IF NOT EXISTS download_tasks ("
    _, _, schema = (EXAMPLES / "schema.sql").read_text().partition(create)
    _, _, writer = (EXAMPLES / "node-writer" / "writer.mjs").read_text().partition(create)
    columns = schema.rpartition(");")[0]
    assert "course_url" in columns
    assert writer.startswith(columns)


def test_systemd_unit_passes_systemd_analyze(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        absent("systemd-analyze", "run scripts/systemd")
    unit = tmp_path / "enrollgate.service"
    text = (EXAMPLES / "systemd" / "enrollgate.service").read_text()
    program = "/opt/enrollgate/.venv/bin/enrollgate"
    assert text.count(f"ExecStart={program} run") == 1 and "\nKillMode=process\n" in text
    unit.write_text(text.replace(program, sys.executable))  # the program must exist
    for command in (
        [analyze, "verify", "--recursive-errors=no", str(unit)],
        [analyze, "security", "--offline=true", "--threshold=25", str(unit)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "enrollgate.service:" not in done.stderr, "it has warnings"
