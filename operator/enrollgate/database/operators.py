"""A sign of life of each installation's operator, for Node.js and for people."""

from collections.abc import Mapping

from sqlalchemy import Connection, insert, select, update

from enrollgate.database.engine import Database
from enrollgate.database.tables import operators


def record_pass(
    database: Database, installation: str, values: Mapping[str, object], *, is_first: bool
) -> None:
    """Record that the operator has made a pass just now. `is_first`: the first one of this process.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    now = database.clock_expression()
    row = {"installation": installation, **values, "last_pass_at": now}
    if is_first:
        row["started_at"] = now
    mine = operators.c.installation == installation

    def record(connection: Connection) -> None:
        if connection.execute(select(operators.c.installation).where(mine)).first() is None:
            connection.execute(insert(operators).values(row))
        else:
            connection.execute(update(operators).where(mine).values(row))

    database.run_in_transaction(record)
