"""The examples agree with each other."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_node_writer_creates_the_table_of_schema_sql() -> None:
    create = "CREATE TABLE IF NOT EXISTS download_tasks ("
    _, _, schema = (EXAMPLES / "schema.sql").read_text().partition(create)
    _, _, writer = (EXAMPLES / "node-writer" / "writer.mjs").read_text().partition(create)
    columns = schema.rpartition(");")[0]
    assert "course_url" in columns
    assert writer.startswith(columns)
