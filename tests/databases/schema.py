"""The table that Node.js owns, as the tests and benchmarks create it on every database.

It is looser than `examples/schema.sql`: rows that Node.js should not write, such as one without an
account or with an overlong URL, must fit, too. `note` is a column that Enrollgate must not touch.
"""


def create_tasks_table(*, is_sqlite: bool) -> str:
    """Return the statement that creates an empty `download_tasks`, with no index on `status`."""
    auto_increment = "" if is_sqlite else "AUTO_INCREMENT"
    return f"""
CREATE TABLE download_tasks (
  id INTEGER PRIMARY KEY {auto_increment},
  status VARCHAR(32),
  email VARCHAR(255),
  course_url TEXT,
  note VARCHAR(64) DEFAULT 'Node.js'
)
"""
