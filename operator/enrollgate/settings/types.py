"""How a setting's text is written: durations, lists, command lines, names of Kubernetes objects.

Each type parses and checks the text by itself. What is checked across fields is in the models.
"""

import json
import re
import shlex
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
)
from pydantic_settings import NoDecode

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TEN_YEARS = 3650 * 86400


def _parse_seconds(value: object) -> object:
    pattern = r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*"
    if isinstance(value, str) and (match := re.fullmatch(pattern, value)):
        return float(match[1]) * _SECONDS_PER_UNIT[match[2]]
    return value


def _at_most_ten_years(value: float) -> float:
    if value > _TEN_YEARS:
        raise ValueError(
            "it should be ten years (3650d) at most: clocks and databases have their limits"
        )
    return value


def _parse_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(text.strip() for text in value.split(",") if text.strip())
    return value


def _parse_command(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return tuple(TypeAdapter(list[str]).validate_python(json.loads(text)))
        except ValueError as error:
            raise ValueError(
                f"it is neither a command line nor a JSON array of strings ({error})"
            ) from error
    return tuple(shlex.split(text))


def _parse_path(value: object) -> object:
    """Return an absolute path; the text may be relative to the current folder or begin with `~`."""
    if value == "":
        raise ValueError("it is empty: write a path, or remove the variable")
    if not isinstance(value, str | Path):
        return value
    try:
        path = Path(value).expanduser().absolute()
        str(path).encode()  # it is recorded in the database
        return path
    except UnicodeEncodeError as error:
        raise ValueError("its name is not UTF-8 text: choose another folder or file") from error
    except RuntimeError as error:
        raise ValueError("that user has no home folder here: write an absolute path") from error


def _check_listen_address(value: str) -> str:
    try:
        return value if value == "*" else str(ip_address(value))
    except ValueError:
        raise ValueError("write an IP address such as 127.0.0.1 or ::1, or * for all") from None


def _check_object_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
        raise ValueError(
            "write the name of a Kubernetes object: lower-case letters, digits, - and ."
        )
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_parse_seconds),
    Field(gt=0, allow_inf_nan=False),
    AfterValidator(_at_most_ten_years),
]
# Without the spaces and the newline that `echo` or an editor has put around it.
Line = Annotated[str, StringConstraints(strip_whitespace=True)]
# The same for a secret: `settings.loading` recognizes one by its type alone.
TRIMMED = BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)
SomePath = Annotated[Path, BeforeValidator(_parse_path)]
TextList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_list)]
Argv = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_command)]
# The IP address that a server binds to, or `*`.
ListenAddress = Annotated[str, AfterValidator(_check_listen_address)]
ObjectName = Annotated[str, AfterValidator(_check_object_name)]
