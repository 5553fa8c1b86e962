"""Every setting of Enrollgate, from the environment, a mounted file or a folder of secrets, each checked before anything runs.

A wrong value never gets past this module: `load_settings` raises one `SettingsError` whose lines each name the variable, the
value (never a secret's), what is wrong with it and what to write instead.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsError as UndecodableGroup
from sqlalchemy import URL

from enrollgate.domain.destination import DirectoryDestination
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.settings.database import DatabaseSettings, parse_database_url
from enrollgate.settings.kubernetes import KubernetesSettings
from enrollgate.settings.sources import (
    CONFIG_FILE,
    PREFIX,
    SECRETS_DIR,
    config_file,
    names_in_file,
    secrets_folder,
    secrets_in_folder,
    unknown_names,
)
from enrollgate.settings.types import Seconds, SomePath, Words
from enrollgate.settings.validators import check_statuses
from enrollgate.settings.worker import WorkerSettings

RUN_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "TASK_ID",
        "RUN_NUMBER",
        "COURSE_URL",
        "COOKIES_NAME",
        "ATTEMPT",
        "FAILED_ATTEMPTS",
        "MAX_ATTEMPTS",
        "SCRATCH_DIR",
        "REPORT_PATH",
        "PROGRESS_PATH",
    )
)
"""What a launcher tells a worker about its one run: no settings, and accepted by `enrollgate work` alone."""
_Model = TypeVar("_Model", bound=WorkerSettings)
_SHOULD = re.compile(r"^(Input|String) should")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_$]{1,64}")


class SettingsError(ValueError):
    """Settings that cannot be used. Its text has one line for each problem."""


_GROUPS = (DatabaseSettings, KubernetesSettings)
"""Settings whose variables carry the group's name: ENROLLGATE_DATABASE__HOST."""


class Settings(WorkerSettings):
    """All settings, those of the workers included. The secrets folder wins over the environment, and that over the file."""

    # the database
    database_url: SecretStr | None = Field(
        None,
        description="Where the task table is: `mysql://user:password@host:port/name`, or `sqlite:////absolute/path`. "
        "Not given, and no ENROLLGATE_DATABASE__HOST either: an embedded SQLite file in the work folder.",
        examples=["mysql://enrollgate:secret@mysql:3306/courses"],
    )
    database: DatabaseSettings = Field(
        DatabaseSettings(), description="The same in parts, in place of ENROLLGATE_DATABASE_URL."
    )
    task_table: str = Field(
        "download_tasks", description="Node.js's table; `schema.table` is possible."
    )
    id_column: str = Field("id", description="Its integer key.")
    status_column: str = Field(
        "status", description="Its status, the only column that is ever written."
    )
    email_column: str = Field("email", description="The enrolled account.")
    course_url_column: str = Field("course_url", description="The course's URL.")
    status_waiting: Words = Field(
        ("pending", "paid", "processing"),
        description="The words for: enrollment is on its way. Comma-separated.",
    )
    status_enrolled: str = Field("enrolled", description="The word for: the gate is open.")
    status_completed: str = Field(
        "completed", description="The word for: the course is at its destination."
    )
    status_failed: str = Field("failed", description="The word for: it is over, badly.")

    # the gate and the loop
    enrollment_timeout: Seconds = Field(
        300, description="Seconds that an enrollment may take (formerly `max_wait_seconds`)."
    )
    check_interval: Seconds = Field(
        10, description="Seconds between two looks at the database (formerly `check_interval`)."
    )
    max_concurrent_runs: int = Field(
        4, ge=1, le=100_000, description="Runs at the same time, at most."
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="Tries of a run's download before the task fails."
    )
    max_lost_runs: int = Field(
        3,
        ge=0,
        le=100,
        description="How often a run that vanished (reboot, deleted Job) is launched again.",
    )
    run_timeout: Seconds = Field(
        21600, description="Seconds that one run may take, all its tries together."
    )
    retry_backoff: Seconds = Field(
        10,
        description="Seconds before a local run's second try; doubled for each further one (a Job's pauses are Kubernetes').",
    )
    run_ttl: Seconds = Field(
        86400, description="Seconds that a finished run's log and report are kept."
    )

    # where runs live
    launcher: Literal["local", "kubernetes"] = Field(
        "local", description="What runs the runs: `local` or `kubernetes`."
    )
    installation: str = Field(
        "enrollgate",
        description="The name of this installation: the first part of its runs' names. Two installations on one database, "
        "or with one work folder, need two names; a replacement for a machine that died takes over its runs under its name.",
    )
    work_dir: SomePath = Field(
        Path("var"), description="The folder for local runs: their logs, reports and scratch files."
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
    log_format: Literal["text", "json"] = Field(
        "text", description="`text` for people, `json` for machines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines kept."
    )

    @field_validator("task_table")
    @classmethod
    def _table_name(cls, value: str) -> str:
        parts = value.split(".")
        if len(parts) > 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts):
            raise ValueError(
                "write a table name, or schema.table: letters, digits, _ and $, at most 64 characters each"
            )
        return value

    @field_validator("id_column", "status_column", "email_column", "course_url_column")
    @classmethod
    def _column_name(cls, value: str) -> str:
        if not _IDENTIFIER.fullmatch(value):
            raise ValueError("write a column name: letters, digits, _ and $, at most 64 characters")
        return value

    @field_validator("installation")
    @classmethod
    def _installation_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", value):
            raise ValueError(
                "write a DNS label of at most 32 characters: lower-case letters, digits and -, a letter first"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_database_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        self._check_database()
        if self.launcher == "kubernetes":
            self._check_kubernetes()
        check_statuses(self.statuses())
        return self

    def _check_database(self) -> None:
        database, parts = self.database, PREFIX + "DATABASE__"
        if self.database_url is not None and database.host is not None:
            raise ValueError(
                "ENROLLGATE_DATABASE_URL and ENROLLGATE_DATABASE__HOST are both set: keep one of them"
            )
        if database.host is not None and not (database.user and database.name):
            raise ValueError(
                "ENROLLGATE_DATABASE__HOST needs ENROLLGATE_DATABASE__USER and ENROLLGATE_DATABASE__NAME, too"
            )
        alone = sorted({"user", "password", "name", "port"} & database.model_fields_set)
        if database.host is None and alone:
            raise ValueError(
                f"{parts}{alone[0].upper()} has no effect without {parts}HOST: set that, or remove it"
            )
        if database.tls_ca is not None and self.sqlalchemy_url().get_backend_name() == "sqlite":
            raise ValueError(
                f"{parts}TLS_CA has no effect on SQLite: name a database server, or remove it"
            )

    def _check_kubernetes(self) -> None:
        if self.kubernetes.image is None:
            raise ValueError(
                "ENROLLGATE_LAUNCHER=kubernetes needs ENROLLGATE_KUBERNETES__IMAGE, the image of the workers"
            )
        if self.database_url is None and self.database.host is None:
            raise ValueError(
                "ENROLLGATE_LAUNCHER=kubernetes needs a database server: set ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__HOST "
                "(in the chart: the Secret that database.existingSecret names has the key `url`, or, with database.form: `parts`, "
                "the keys host, user, password and name)"
            )
        if self.kubernetes.destination_claim is not None and not isinstance(
            self.destination, DirectoryDestination
        ):
            raise ValueError(
                "ENROLLGATE_KUBERNETES__DESTINATION_CLAIM is set, but ENROLLGATE_DESTINATION is no directory: remove one of them"
            )

        if self.kubernetes.scratch_volume <= self.scratch_limit:
            raise ValueError(
                "ENROLLGATE_KUBERNETES__SCRATCH_VOLUME must be more than ENROLLGATE_SCRATCH_LIMIT, or workers are evicted"
            )

    def sqlalchemy_url(self) -> URL:
        """The address of the database, password included."""
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
        """The status words as this deployment spells them."""
        return Statuses(
            self.status_waiting, self.status_enrolled, self.status_completed, self.status_failed
        )

    def task_columns(self) -> TaskColumns:
        """Where Node.js keeps its tasks."""
        return TaskColumns(
            self.task_table,
            self.id_column,
            self.status_column,
            self.email_column,
            self.course_url_column,
        )


def variables() -> dict[str, Any]:
    """Every variable's name with its field, nested ones included."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if field.annotation in _GROUPS:
            for inner, inner_field in field.annotation.model_fields.items():
                found[f"{PREFIX}{name.upper()}__{inner.upper()}"] = inner_field
        else:
            found[PREFIX + name.upper()] = field
    return found


def load_settings() -> Settings:
    """Read and check all settings. Raises SettingsError."""
    return _load(Settings, ())


def load_worker_settings() -> WorkerSettings:
    """Read and check what a worker needs; RUN_VARIABLES may be set, too. Raises SettingsError."""
    return _load(WorkerSettings, RUN_VARIABLES)


def _load(model: type[_Model], besides: Collection[str]) -> _Model:
    known = set(variables())
    groups = {
        PREFIX + name.upper()
        for name, field in Settings.model_fields.items()
        if field.annotation in _GROUPS
    }
    ours = (
        name
        for name in os.environ
        if name not in besides and not name.upper().startswith(PREFIX + "TEST_")
    )
    problems = unknown_names(ours, known | {CONFIG_FILE, SECRETS_DIR}, groups)
    try:
        file, folder = config_file(), secrets_folder()
        if file is not None:
            problems += unknown_names(names_in_file(file), known, groups, str(file))
        secrets = {} if folder is None else secrets_in_folder(folder)
        problems += unknown_names(secrets, known, groups, str(folder))
        told = {name: text for name, text in secrets.items() if name in known}
        settings = model(_env_file=file, _secrets_dir=None, **_nested(told))
    except ValidationError as error:
        problems += [
            _explain(problem) for problem in error.errors() if problem["type"] != "extra_forbidden"
        ]
    except UndecodableGroup as error:  # told above, as a name that is none
        problems = problems or [str(error)]
    except OSError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _nested(texts: dict[str, str]) -> dict[str, Any]:
    """Variables as the keyword arguments of Settings."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        outer, _, inner = name.removeprefix(PREFIX).lower().partition("__")
        if inner:
            values.setdefault(outer, {})[inner] = text
        else:
            values[outer] = text
    return values


def _explain(problem: Any) -> str:
    """One line for one of pydantic's findings: the variable, the value, what is wrong."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = PREFIX + "__".join(
        str(part).upper() for part in problem["loc"][:2] if isinstance(part, str)
    )
    field = variables().get(name)
    value = problem["input"]
    secret = field is None or "SecretStr" in str(field.annotation)
    shown = "***" if secret else _plain(value)
    example = f"; for example {field.examples[0]}" if field is not None and field.examples else ""
    return f"{name}={shown}: {_SHOULD.sub('it should', message)}{example}"


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def choices(annotation: Any) -> tuple[str, ...]:
    """The values that a field of fixed choices takes; empty for any other."""
    return get_args(annotation) if str(annotation).startswith("typing.Literal") else ()
