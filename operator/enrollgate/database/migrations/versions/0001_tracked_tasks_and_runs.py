"""Our tables: the tracked tasks, the runs and the operators.

Revision ID: 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import BIGINT, DATETIME

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TASK_ID = _KEY.with_variant(BIGINT(unsigned=True), "mysql", "mariadb")
_INSTANT = sa.DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")
_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
_MARIADB = {
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Create the tables and their indexes.

    MySQL and MariaDB commit each DDL statement by itself, so what an interrupted migration created
    is kept as it is.
    """
    _create(
        "enrollgate_tasks",
        sa.Column("task_id", _TASK_ID, primary_key=True, autoincrement=False),
        sa.Column("first_seen_at", _INSTANT, nullable=False),
        sa.Column("last_seen_status", sa.String(64), nullable=False),
        sa.Column("enrolled_seen_at", _INSTANT),
        sa.Column("clock_steps", sa.Integer, nullable=False, server_default="0"),
        *_set_aside(),
        sa.Column("hold_id", _KEY),
        indexes={
            "ix_enrollgate_tasks_status_seen": ["last_seen_status", "first_seen_at"],
            "ix_enrollgate_tasks_retry": ["retry_at"],
            "ix_enrollgate_tasks_hold": ["hold_id"],
        },
    )
    _create_runs()
    _create_holds()
    _create(
        "enrollgate_operators",
        sa.Column("installation", sa.String(63), primary_key=True),
        sa.Column("version", sa.String(64)),
        sa.Column("launcher", sa.String(16)),
        sa.Column("last_pass_at", _INSTANT),
        sa.Column("pass_seconds", sa.Double),
        sa.Column("enrollment_timeout", sa.Double),
        sa.Column("max_concurrent_runs", sa.Integer),
        sa.Column("check_interval", sa.Double),
        sa.Column("started_at", _INSTANT),
        sa.Column("task_view", sa.String(64)),
        indexes={},
    )


def _create_runs() -> None:
    _create(
        "enrollgate_runs",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("task_id", _TASK_ID, nullable=False),
        sa.Column("run_number", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("installation", sa.String(63), nullable=False),
        sa.Column("claim_id", sa.String(32)),
        sa.Column("content_sha256", sa.String(64)),
        sa.Column("launcher", sa.String(16)),
        sa.Column("place_id", sa.String(64)),
        sa.Column("host", sa.String(255)),
        sa.Column("machine_id", sa.String(64)),
        sa.Column("work_dir", sa.Text),
        sa.Column("boot_id", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("task_left", sa.String(16)),
        sa.Column("account", sa.String(64)),
        sa.Column("course_host", sa.String(255)),
        sa.Column("first_seen_at", _INSTANT),
        sa.Column("enrolled_seen_at", _INSTANT),
        sa.Column("claimed_at", _INSTANT, nullable=False),
        sa.Column("launched_at", _INSTANT),
        sa.Column("started_at", _INSTANT),
        sa.Column("finished_at", _INSTANT),
        sa.Column("recorded_at", _INSTANT),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.String(64)),
        sa.Column("message", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("result", sa.JSON),
        sa.Column("attempt", sa.Integer),
        sa.Column("attempts", sa.Integer),
        sa.Column("percent", sa.Integer),
        sa.Column("items_done", sa.Integer),
        sa.Column("items_total", sa.Integer),
        sa.Column("bytes_done", sa.BigInteger),
        sa.Column("bytes_total", sa.BigInteger),
        sa.Column("bytes_per_second", sa.BigInteger),
        sa.Column("current_item", sa.String(255)),
        sa.Column("progress_at", _INSTANT),
        sa.Column("destination_url", sa.Text),
        *_set_aside(),
        sa.Column(
            "active",
            sa.Integer,
            sa.Computed("CASE WHEN state <> 'finished' THEN 1 END", persisted=True),
        ),
        sa.UniqueConstraint("task_id", "run_number", name="uq_enrollgate_runs_run_number"),
        sa.UniqueConstraint("task_id", "active", name="uq_enrollgate_runs_active"),
        indexes={
            "ix_enrollgate_runs_active": ["active", "installation"],
            "ix_enrollgate_runs_finished": ["finished_at"],
            "ix_enrollgate_runs_outcome": ["outcome", "finished_at", "reason"],
            "ix_enrollgate_runs_account": ["account", "recorded_at"],
            "ix_enrollgate_runs_course_host": ["course_host", "recorded_at"],
        },
    )


def _create_holds() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # Without the expression, MySQL would take the session's time zone.
    now = "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))" if is_sqlite else "(UTC_TIMESTAMP(6))"
    _create(
        "enrollgate_holds",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("installation", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False, server_default="pause"),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False, server_default=""),
        sa.Column("reason", sa.String(64), nullable=False, server_default="Paused"),
        sa.Column("message", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("opened_at", _INSTANT, nullable=False, server_default=sa.text(now)),
        sa.Column("opened_by", sa.String(255), nullable=False),
        sa.Column("run_name", sa.String(63)),
        sa.Column("cookies_sha256", sa.String(64)),
        sa.Column("allowed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("probes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("probe_at", _INSTANT),
        sa.Column("ends_at", _INSTANT),
        sa.Column("closed_at", _INSTANT),
        sa.Column("closed_by", sa.String(255)),
        sa.Column(
            "active",
            sa.Integer,
            sa.Computed("CASE WHEN closed_at IS NULL THEN 1 END", persisted=True),
        ),
        sa.UniqueConstraint(
            *("installation", "kind", "scope", "subject", "active"),
            name="uq_enrollgate_holds_active",
        ),
        *_hold_checks(is_sqlite=is_sqlite),
        indexes={"ix_enrollgate_holds_active": ["active", "installation"]},
    )
    _create(
        "enrollgate_actions",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("installation", sa.String(63), nullable=False),
        sa.Column("acted_at", _INSTANT, nullable=False, server_default=sa.text(now)),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("task_id", _TASK_ID),
        sa.Column("hold_id", _KEY),
        sa.Column("detail", sa.Text),
        indexes={
            "ix_enrollgate_actions_acted": ["acted_at"],
            "ix_enrollgate_actions_task": ["task_id"],
        },
    )


def _hold_checks(*, is_sqlite: bool) -> list[sa.CheckConstraint]:
    """Return what a hold must be: programs insert pauses, and a wrong one would hold nothing."""
    checks = {
        "kind": "kind IN ('hold', 'pause')",
        "scope": "scope IN ('account', 'host', 'destination', 'installation')",
        # A subject is compared as it is, with what is computed from the row.
        "account_is_sha256": "scope <> 'account' OR (LENGTH(subject) = 64 AND "
        "subject = LOWER(subject))",
        # One colon is that of a port; an IPv6 address has more.
        "host_is_name": "scope <> 'host' OR (subject <> '' AND subject = LOWER(subject) AND "
        "subject NOT LIKE '%/%' AND subject NOT LIKE '% %' AND subject NOT LIKE '%.' AND "
        "LENGTH(subject) - LENGTH(REPLACE(subject, ':', '')) <> 1)",
        "all_is_empty": "scope IN ('account', 'host') OR subject = ''",
    }
    if is_sqlite:  # it stores any text as an instant
        digits, pattern = "[0-9][0-9]", "{0}{0}-{0}-{0} {0}:{0}:{0}"
        for column in ("opened_at", "probe_at", "ends_at", "closed_at"):
            is_instant = f"{column} GLOB '{pattern.format(digits)}*' AND {column} NOT GLOB '*[Z+]*'"
            is_date = f"julianday({column}) IS NOT NULL"
            checks[f"{column}_is_utc"] = f"{column} IS NULL OR ({is_instant} AND {is_date})"
    return [
        sa.CheckConstraint(condition.replace("%", "%%"), name=f"ck_enrollgate_holds_{name}")
        for name, condition in checks.items()
    ]


def _set_aside() -> tuple[sa.Column[Any], ...]:
    """Return the columns that say why, and until when, a task is set aside."""
    return (
        sa.Column("refusals", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refusal", sa.Text),
        sa.Column("retry_at", _INSTANT),
    )


def _create(table: str, *parts: sa.schema.SchemaItem, indexes: dict[str, list[str]]) -> None:
    if not sa.inspect(op.get_bind()).has_table(table):
        op.create_table(table, *parts, if_not_exists=True, **_MYSQL, **_MARIADB)
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    for name, columns in indexes.items():
        if name not in there:
            op.create_index(name, table, columns)


def downgrade() -> None:
    """Refuse: migrations are additive, and going back would lose data."""
    raise NotImplementedError("enrollgate's migrations only add; restore a back-up to go back")
