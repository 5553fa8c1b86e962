"""Every setting of the operator, the workers' settings included.

`settings.loading` fills this model. The fields here check each value by itself; the validators at
the end check what only makes sense together.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator

from enrollgate.domain.destination import DirectoryDestination
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.settings.database import DatabaseSettings, parse_database_url
from enrollgate.settings.kubernetes import KubernetesSettings
from enrollgate.settings.types import TRIMMED, ListenAddress, Seconds, SomePath, TextList
from enrollgate.settings.validators import check_statuses
from enrollgate.settings.web import WebSettings
from enrollgate.settings.worker import WorkerSettings

if TYPE_CHECKING:
    from sqlalchemy import URL

# Bytes that a worker takes at most with a small course, and a reserve.
_LEAST_MEMORY = 256 * 2**20
# What MySQL allows in a quoted name (https://dev.mysql.com/doc/refman/8.4/en/identifiers.html), but
# for spaces, quotes and what looks like a statement.
_IDENTIFIER = re.compile(r"(?!`)[^\s\x00-\x1f\x7f;'\"\\\U00010000-\U0010ffff]{1,64}(?<!`)")


def default_work_dir() -> Path:
    """Return the folder of local runs if none is set: the same one wherever the operator starts.

    Root has /var/lib/enrollgate, other users a folder for state.
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if os.geteuid() == 0:
        state = Path("/var/lib")
    elif not state.is_absolute():  # then the specification wants it ignored
        try:
            state = Path.home().absolute() / ".local" / "state"
        except RuntimeError:  # a user without a home folder, as in a container
            state = Path("/var/lib")
    return state / "enrollgate"


class Settings(WorkerSettings):
    """All settings, those of the workers included."""

    # the database
    database_url: Annotated[SecretStr | None, TRIMMED] = Field(
        None,
        description="Where the task table is: `mysql://user:password@host:port/name`, or "
        "`sqlite:////absolute/path`. If neither this nor ENROLLGATE_DATABASE__HOST is set: an "
        "embedded SQLite file in the work folder.",
        examples=["mysql://enrollgate:secret@mysql:3306/courses"],
    )
    database: DatabaseSettings = Field(
        DatabaseSettings(),
        description="The same in parts, instead of ENROLLGATE_DATABASE_URL.",
    )
    task_table: str = Field(
        "download_tasks", description="Node.js's table; `schema.table` is possible."
    )
    id_column: str = Field("id", description="Column of the task's integer key.")
    status_column: str = Field(
        "status",
        description="Column of the task's status. It is the only column that Enrollgate writes.",
    )
    email_column: str = Field("email", description="Column of the enrolled account.")
    course_url_column: str = Field("course_url", description="Column of the course's URL.")
    priority_column: str | None = Field(
        None,
        description="Column of an integer priority; of the tasks that wait for a slot, those with "
        "the highest number are launched first, NULL last. Unset: all are equal.",
        examples=["priority"],
    )
    status_waiting: TextList = Field(
        ("pending", "paid", "processing"),
        description="Statuses that Node.js writes while the enrollment is in progress. "
        "Comma-separated.",
    )
    status_enrolled: str = Field(
        "enrolled", description="Status that Node.js writes when the account is enrolled."
    )
    status_completed: str = Field(
        "completed",
        description="Status written when the whole course is at its destination.",
    )
    status_failed: str = Field("failed", description="Status written when a task has failed.")

    # the gate and the loop
    enrollment_timeout: Seconds = Field(
        300, description="Seconds that an enrollment may take (formerly `max_wait_seconds`)."
    )
    check_interval: Seconds = Field(
        10, description="Seconds between two full passes (formerly `check_interval`)."
    )
    gate_interval: float = Field(
        0.025,
        ge=0.01,
        le=60,
        description="Seconds between two looks at the gate, while a slot is free. A look finds the "
        "tasks that were enrolled since.",
    )
    gate_database_share: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Part of one database core that the looks at the gate may take. If a look "
        "takes long, the next one comes later: add an index on the status.",
    )
    max_concurrent_runs: int = Field(
        4, ge=1, le=100_000, description="Maximum number of runs at the same time."
    )
    max_runs_per_account: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Maximum number of runs of one account at the same time; 0: no limit. Set 1 if "
        "a site ends one session when another begins.",
    )
    max_runs_per_host: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Maximum number of runs at the same time whose courses are on one host; 0: no "
        "limit.",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Maximum number of attempts of a run; after that, the task fails.",
    )
    max_lost_runs: int = Field(
        3,
        ge=0,
        le=100,
        description="How many times a run that disappeared (reboot, deleted Job) is launched "
        "again.",
    )
    launch_timeout: Seconds = Field(
        86400,
        description="Seconds for which a launch is tried again that the API server or the machine "
        "refuses for this run alone; after that, the task fails.",
    )
    run_timeout: Seconds = Field(
        21600, description="Seconds that one run may take, all its attempts together."
    )
    retry_backoff: Seconds = Field(
        10,
        description="Seconds before the second attempt of a local run; doubled for each further "
        "attempt. Kubernetes decides the pauses between a Job's attempts.",
    )
    # holds
    holds: bool = Field(
        True,
        description="Whether a failure that concerns more than its own task opens a hold: then the "
        "other tasks of the account, host, destination or installation wait. docs/holds.md.",
    )
    hold_threshold: int = Field(
        3,
        ge=1,
        le=100,
        description="How many runs in a row must fail before a hold is opened for a reason that "
        "may concern one course only (`AccessDenied`, `SiteError`, `NetworkError`, ...).",
    )
    hold_failed: Literal["fail", "retry"] = Field(
        "fail",
        description="What becomes of the task whose failure opens a hold. `fail`: it fails. "
        "`retry`: it stays enrolled, and is held with the others.",
    )
    hold_pause: Seconds = Field(
        300,
        description="Seconds until the first probe run of a hold; doubled after each one that "
        "fails for the same reason.",
    )
    hold_longest_pause: Seconds = Field(
        21600, description="Seconds between two probe runs of a hold, at most."
    )
    hold_limit: Seconds = Field(
        604_800,
        description="Seconds that a hold lasts; after that, its tasks fail. A pause without a time "
        "of its own ends by then. 7 days by default.",
    )
    run_ttl: Seconds = Field(
        86400, description="Seconds that the log and the report of a finished run are kept."
    )
    history: Seconds = Field(
        15_552_000,
        description="Seconds that finished runs are kept in the database; 180 days by default. "
        "Runs of tasks that are waiting or enrolled are kept longer. Not less than "
        "ENROLLGATE_RUN_TTL.",
    )

    # where runs are
    launcher: Literal["local", "kubernetes"] = Field(
        "local", description="What starts the runs: `local` or `kubernetes`."
    )
    installation: str = Field(
        "enrollgate",
        description="The name of this installation: the first part of its runs' names. Two "
        "installations that share a database or a work folder need two names.",
    )
    work_dir: SomePath = Field(
        default_factory=default_work_dir,
        description="The folder of local runs: their logs, reports and scratch files. Default: "
        "/var/lib/enrollgate for root, else $XDG_STATE_HOME/enrollgate or "
        "~/.local/state/enrollgate. A relative path begins at the folder where the operator is "
        "started. All operators of one installation on one machine need the same folder.",
    )
    local_memory_limit: ByteSize = Field(
        ByteSize(2 * 2**30),
        description="Maximum memory of a local run: its worker and all processes that it starts, "
        "together. At least 256MiB; 0: no limit. In Kubernetes, the job template has the limit.",
    )
    kubernetes: KubernetesSettings = Field(
        KubernetesSettings(), description="For ENROLLGATE_LAUNCHER=kubernetes."
    )

    # what others see
    http_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="The port that serves /livez, /readyz and /metrics (Prometheus); 0: none.",
    )
    http_address: ListenAddress = Field(
        "127.0.0.1",
        description="The IP address that serves them; `*`: all addresses of the machine, IPv6 and "
        "IPv4. The chart sets `*`: the kubelet and Prometheus ask the pod's address.",
        examples=["*"],
    )
    web: WebSettings = Field(WebSettings(), description="For the command `enrollgate web`.")
    log_format: Literal["text", "json"] = Field(
        "text", description="`text` for people, `json` for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level of log lines that are written."
    )

    @field_validator("task_table")
    @classmethod
    def _table_name(cls, value: str) -> str:
        parts = value.split(".")
        if len(parts) > 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts):
            raise ValueError(
                "write a table name, or schema.table, as they are, without quotes: 1 to 64 "
                "characters each"
            )
        return value

    @field_validator(
        "id_column", "status_column", "email_column", "course_url_column", "priority_column"
    )
    @classmethod
    def _column_name(cls, value: str | None) -> str | None:
        if value is not None and not _IDENTIFIER.fullmatch(value):
            raise ValueError("write a column name, as it is, without quotes: 1 to 64 characters")
        return value

    @field_validator("installation")
    @classmethod
    def _installation_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", value):
            raise ValueError(
                "write a DNS label of at most 32 characters: "
                "lower-case letters, digits and -; begin with a letter"
            )
        return value

    @field_validator("local_memory_limit")
    @classmethod
    def _enough_memory(cls, value: ByteSize) -> ByteSize:
        if 0 < value < _LEAST_MEMORY:
            raise ValueError("a worker needs more: write 256MiB at least, or 0 for no limit")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_database_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_database(self) -> Self:
        database, prefix = self.database, "ENROLLGATE_DATABASE__"
        if self.database_url is not None and database.host is not None:
            raise ValueError(f"ENROLLGATE_DATABASE_URL and {prefix}HOST are both set: keep one")
        if database.host is not None and not (database.user and database.name):
            raise ValueError(f"{prefix}HOST needs {prefix}USER and {prefix}NAME: set them, too")
        without_host = sorted({"user", "password", "name", "port"} & database.model_fields_set)
        if database.host is None and without_host:
            raise ValueError(
                f"{prefix}{without_host[0].upper()} has no effect without {prefix}HOST: "
                "set that, or remove it"
            )
        if database.tls_ca is not None and self.sqlalchemy_url().get_backend_name() == "sqlite":
            raise ValueError(
                f"{prefix}TLS_CA has no effect on SQLite: name a database server, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_kubernetes(self) -> Self:
        if self.launcher != "kubernetes":
            return self
        if self.kubernetes.image is None:
            raise ValueError(
                "ENROLLGATE_LAUNCHER=kubernetes needs ENROLLGATE_KUBERNETES__IMAGE: "
                "set it to the image of the workers"
            )
        if self.database_url is None and self.database.host is None:
            raise ValueError(
                "ENROLLGATE_LAUNCHER=kubernetes needs a database server: set "
                "ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__HOST. In the chart, the Secret "
                "of database.existingSecret has the key `url`; or, with database.form: `parts`, "
                "the keys host, user, password and name"
            )
        if self.kubernetes.destination_claim is not None and not isinstance(
            self.destination, DirectoryDestination
        ):
            raise ValueError(
                "ENROLLGATE_KUBERNETES__DESTINATION_CLAIM is set, but ENROLLGATE_DESTINATION is "
                "not a directory: remove one of them"
            )
        if self.kubernetes.scratch_volume <= self.scratch_limit:
            raise ValueError(
                "ENROLLGATE_KUBERNETES__SCRATCH_VOLUME must be more than "
                "ENROLLGATE_SCRATCH_LIMIT: otherwise workers are evicted"
            )
        return self

    @model_validator(mode="after")
    def _check_history(self) -> Self:
        if self.history < self.run_ttl:
            raise ValueError(
                f"ENROLLGATE_HISTORY={self.history:g} is less than ENROLLGATE_RUN_TTL="
                f"{self.run_ttl:g} (seconds): the database would forget a run whose Job or folder "
                "still exists, and give its name to another run. Raise ENROLLGATE_HISTORY, or "
                "lower ENROLLGATE_RUN_TTL"
            )
        return self

    @model_validator(mode="after")
    def _check_web(self) -> Self:
        web = self.web
        if web.token is not None and web.behind_proxy:
            raise ValueError(
                "ENROLLGATE_WEB__TOKEN and ENROLLGATE_WEB__BEHIND_PROXY are both set: keep one"
            )
        if not (web.is_loopback or web.token or web.behind_proxy):
            raise ValueError(
                f"ENROLLGATE_WEB__ADDRESS={web.address} would show the page to everyone who can "
                "reach it: set ENROLLGATE_WEB__TOKEN, or ENROLLGATE_WEB__BEHIND_PROXY=true if a "
                "proxy decides who may open it"
            )
        return self

    @model_validator(mode="after")
    def _check_statuses(self) -> Self:
        check_statuses(self.statuses())
        return self

    def sqlalchemy_url(self) -> "URL":
        """Return the database's URL, with the password in it."""
        from sqlalchemy import URL  # workers load this module, too, but no database

        if self.database_url is not None:
            return parse_database_url(self.database_url.get_secret_value())
        if self.database.host is None:
            return URL.create("sqlite", database=str(self.work_dir / "enrollgate.db"))
        return URL.create(
            "mysql+pymysql",
            username=self.database.user,
            password=self.database.password.get_secret_value(),
            host=self.database.host,
            port=self.database.port,
            database=self.database.name,
        )

    def statuses(self) -> Statuses:
        """Return the statuses as this deployment spells them."""
        return Statuses(
            self.status_waiting, self.status_enrolled, self.status_completed, self.status_failed
        )

    def task_columns(self) -> TaskColumns:
        """Return the names of the task table and of its columns."""
        return TaskColumns(
            self.task_table,
            self.id_column,
            self.status_column,
            self.email_column,
            self.course_url_column,
            self.priority_column,
        )
