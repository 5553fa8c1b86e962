"""The forms that a setting's text may have: durations, lists, command lines, names of Kubernetes objects."""

import json
import re
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic_settings import NoDecode

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _seconds(value: object) -> object:
    if isinstance(value, str) and (
        match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
    ):
        return float(match[1]) * _UNITS[match[2]]
    return value


def _not_forever(value: float) -> float:
    if value > _LONGEST:
        raise ValueError(
            "it should be ten years (3650d) at most: clocks and databases have their limits"
        )
    return value


def _words(value: object) -> object:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _argv(value: object) -> object:
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


def _path(value: object) -> object:
    """An absolute path: what is relative is so to the folder of the start, and `~` is the user's home."""
    if value == "":
        raise ValueError("it is empty: write a path, or remove the variable")
    if not isinstance(value, str | Path):
        return value
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("that user has no home folder here: write an absolute path") from error


def _object_name(value: str) -> str:
    if not _OBJECT_NAME.fullmatch(value):
        raise ValueError(
            "write the name of a Kubernetes object: lower-case letters, digits, - and ."
        )
    return value


Seconds = Annotated[
    float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False), AfterValidator(_not_forever)
]
SomePath = Annotated[Path, BeforeValidator(_path)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Argv = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_argv)]
ObjectName = Annotated[str, AfterValidator(_object_name)]
