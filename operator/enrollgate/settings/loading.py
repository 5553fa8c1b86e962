"""Load the settings: from the environment, a mounted file and a folder of secrets.

A wrong value never gets past this module, and neither does a name that nothing reads: a setting
with a typing error must not be ignored. All problems are reported at once, by one `SettingsError`.
Each of its lines names the variable, its value (never a secret), what is wrong, and what to write.
"""

import difflib
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError as SourceError

from enrollgate.settings.sources import (
    CONFIG_FILE,
    PREFIX,
    SECRETS_DIR,
    SecretsFolder,
    config_file,
    names_in_file,
    secrets_folder,
)
from enrollgate.settings.worker import WorkerSettings

if TYPE_CHECKING:
    from enrollgate.settings.operator import Settings

# What a launcher says to a worker about its one run. They are no settings: only the command
# `enrollgate work` accepts them.
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
_Model = TypeVar("_Model", bound=WorkerSettings)


class SettingsError(ValueError):
    """Settings that cannot be used. Its text has one line for each problem."""


def load_settings() -> "Settings":
    """Read and check all settings. Raises SettingsError."""
    from enrollgate.settings.operator import Settings

    return _load(Settings, frozenset())


def load_worker_settings() -> WorkerSettings:
    """Read and check the worker's settings: the inverse of `WorkerSettings.to_env`.

    The environment may hold RUN_VARIABLES, too. Raises SettingsError.
    """
    return _load(WorkerSettings, RUN_VARIABLES)


def variables() -> dict[str, FieldInfo]:
    """Return the name of every variable with its field, those of the groups included."""
    from enrollgate.settings.operator import Settings  # a worker seldom needs the operator's

    found = {}
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            for inner, inner_field in group.model_fields.items():
                found[f"{PREFIX}{name}__{inner}".upper()] = inner_field
        else:
            found[f"{PREFIX}{name}".upper()] = field
    return found


def _load(model: type[_Model], also_allowed: frozenset[str]) -> _Model:
    problems = _unknown_names(
        name
        for name in os.environ
        if name not in also_allowed | {CONFIG_FILE, SECRETS_DIR}
        and not name.upper().startswith(PREFIX + "TEST_")
    )
    try:
        file, folder = config_file(), secrets_folder()
        if file is not None:
            problems += _unknown_names(names_in_file(file), f" in {file}")
        if folder is not None:
            problems += _unknown_names(SecretsFolder.load_secrets(folder), f" in {folder}")
        settings = model(_env_file=file, _secrets_dir=folder)
    except ValidationError as error:
        # An extra name in a group has its line from `_unknown_names`.
        problems += [_explain(e) for e in error.errors() if e["type"] != "extra_forbidden"]
    except SourceError as error:
        # A group with a value of its own also has its line from `_unknown_names`.
        problems = problems or [str(error)]
    except OSError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _unknown_names(names: Iterable[str], place: str = "") -> list[str]:
    """Return one line for each name that has our prefix and is no setting.

    The lines show no values, since a value may be a secret.
    """
    ours = {name.upper() for name in names if name.upper().startswith(PREFIX)}
    ours -= {f"{PREFIX}{name}".upper() for name in WorkerSettings.model_fields}
    if not ours:
        return []
    known = set(variables())
    problems = []
    for name in sorted(ours - known):
        members = sorted(other for other in known if other.startswith(f"{name}__"))
        # The prefix is cut off, since it makes all names look alike.
        similar = difflib.get_close_matches(
            name.removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known], n=1
        )
        if name in (CONFIG_FILE, SECRETS_DIR):
            problem = "it is read from the environment only: set it there"
        elif members:
            problem = (
                f"it is a group and has no value of its own: set its parts, such as {members[0]}"
            )
        elif similar:
            problem = f"there is no such setting; did you mean {PREFIX}{similar[0]}?"
        else:
            problem = "there is no such setting: remove it; docs/settings.md lists all settings"
        problems.append(f"{name}{place}: {problem}")
    return problems


def _explain(error: ErrorDetails) -> str:
    """Return one line for one error of pydantic: the variable, the value, what is wrong."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    path = [str(part).upper() for part in error["loc"][:2] if isinstance(part, str)]
    name = PREFIX + "__".join(path)
    field, value = variables().get(name), error["input"]
    if field is None or SecretStr in (field.annotation, *get_args(field.annotation)):
        value = "***"
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    example = f"; for example {field.examples[0]}" if field is not None and field.examples else ""
    return f"{name}={value}: {re.sub('^(Input|String) should', 'it should', message)}{example}"
