"""Describes the task table as the database sees it: its columns, its keys and its engine.

A server is asked through `information_schema`, since that needs no privilege beyond those on the
columns themselves. `SHOW CREATE TABLE` would need SHOW VIEW for a view.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

from enrollgate.database.tables import Tables

# Bits of the integer types of MySQL and MariaDB. SQLite has one integer type, of 64 bits.
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}
# Collations that tell upper case from lower case.
_CASE_SENSITIVE = re.compile(r"_(bin|cs)$")

_COLUMNS = text(
    "SELECT column_name, data_type, column_type, character_maximum_length, collation_name, "
    "COALESCE(generation_expression, '') <> '' FROM information_schema.columns "
    "WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :table "
    "ORDER BY ordinal_position"
)
_INDEXES = text(
    "SELECT index_name, non_unique, column_name FROM information_schema.statistics "
    "WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :table "
    "ORDER BY index_name, seq_in_index"
)
_ENGINE = text(
    "SELECT t.engine, e.transactions FROM information_schema.tables t "
    "LEFT JOIN information_schema.engines e ON e.engine = t.engine "
    "WHERE t.table_schema = COALESCE(:schema, DATABASE()) AND t.table_name = :table"
)
# https://www.sqlite.org/pragma.html#pragma_table_xinfo: `hidden` is 2 or 3 for a generated column.
_SQLITE_COLUMNS = text(
    "SELECT name, type, pk, hidden FROM pragma_table_xinfo(:table, :schema) WHERE hidden <> 1"
)
_SQLITE_INDEXES = text(
    'SELECT i.name, 1 - i."unique", c.name FROM pragma_index_list(:table, :schema) i '
    "JOIN pragma_index_info(i.name, :schema) c WHERE NOT i.partial ORDER BY i.name, c.seqno"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the database describes it.

    `type` is the whole type in upper case, `base` its first word in lower case (`int`). `length` is
    in characters, None if it has no limit. `values` are those of an ENUM.
    """

    name: str
    type: str
    base: str
    length: int | None = None
    collation: str | None = None
    is_generated: bool = False
    values: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Return whether it holds whole numbers."""
        return self.base in _BITS

    @property
    def is_unsigned(self) -> bool:
        """Return whether it holds no negative numbers."""
        return "UNSIGNED" in self.type

    @property
    def is_text(self) -> bool:
        """Return whether it holds any text."""
        return self.base in _TEXTS

    @property
    def is_case_sensitive(self) -> bool:
        """Return whether its collation tells upper case from lower case."""
        return bool(self.collation and _CASE_SENSITIVE.search(self.collation))

    def can_hold(self, value: str) -> bool:
        """Return whether this text can be in the column."""
        if self.is_integer:
            bits = _BITS[self.base]
            low, high = (0, 2**bits) if self.is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1))
            return re.fullmatch(r"0|-?[1-9]\d*", value) is not None and low <= int(value) < high
        if self.values:
            sensitive = self.is_case_sensitive
            return any(
                each == value or (not sensitive and each.casefold() == value.casefold())
                for each in self.values
            )
        return self.length is None or len(value) <= self.length


@dataclass(frozen=True, slots=True)
class TaskTable:
    """The task table as the database describes it.

    `columns` has their names in lower case as keys: databases do not tell upper case from lower
    case in them. `indexes` are pairs: whether it is unique, and its columns in lower case.
    `engine` is None for a view and for SQLite.
    """

    columns: dict[str, Column]
    indexes: tuple[tuple[bool, tuple[str, ...]], ...]
    engine: str | None
    has_transactions: bool

    def is_unique(self, column: str) -> bool:
        """Return whether a key keeps this column's values unique."""
        return (True, (column.lower(),)) in self.indexes

    def has_index(self, column: str) -> bool:
        """Return whether an index begins with this column."""
        return any(columns[:1] == (column.lower(),) for _, columns in self.indexes)


def describe_task_table(connection: Connection, tables: Tables) -> TaskTable | None:
    """Ask the database for the task table; None if there is none, or the user may not see it."""
    where = {"schema": tables.tasks.schema, "table": tables.tasks.name}
    if connection.dialect.name == "sqlite":
        found = connection.execute(_SQLITE_COLUMNS, where).all()
        # By the rules of https://www.sqlite.org/datatype3.html#determination_of_column_affinity;
        # but for integers, a column holds any text.
        columns = [
            Column(
                name,
                kind.upper(),
                "bigint" if "INT" in kind.upper() else "text",
                is_generated=hidden > 1,
            )
            for name, kind, _, hidden in found
        ]
        indexes = [tuple(row) for row in connection.execute(_SQLITE_INDEXES, where)]
        # Such a column is the row's number: it has no index of its own, and is never NULL.
        keys = [(name, kind) for name, kind, pk, _ in found if pk]
        if len(keys) == 1 and keys[0][1].upper() == "INTEGER":
            indexes.append(("", 0, keys[0][0]))
        engine, has_transactions = None, True
    else:
        columns = [
            Column(
                name,
                str(kind).upper(),
                str(base).lower(),
                length,
                collation,
                bool(is_generated),
                # An apostrophe within a value is doubled.
                tuple(
                    value.replace("''", "'")
                    for value in re.findall(r"'((?:[^']|'')*)'", str(kind))
                    if str(base).lower() == "enum"
                ),
            )
            for name, base, kind, length, collation, is_generated in connection.execute(
                _COLUMNS, where
            )
        ]
        indexes = [tuple(row) for row in connection.execute(_INDEXES, where)]
        engine, transactions = connection.execute(_ENGINE, where).one_or_none() or (None, None)
        has_transactions = engine is None or transactions == "YES"
    if not columns:
        return None
    grouped = dict[str, tuple[bool, tuple[str, ...]]]()
    for index, is_not_unique, column in indexes:
        _, before = grouped.get(index, (False, ()))
        grouped[index] = (not is_not_unique, (*before, str(column).lower()))
    return TaskTable(
        {column.name.lower(): column for column in columns},
        tuple(grouped.values()),
        engine,
        has_transactions,
    )
