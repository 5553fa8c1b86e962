"""The forms that a setting's text may have: durations, lists, command lines, names of Kubernetes objects."""

import json
import re
import shlex
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic_settings import NoDecode

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _seconds(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)):
        return float(match[1]) * _UNITS[match[2]]
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
            raise ValueError(f"it is neither a command line nor a JSON array of strings ({error})") from error
    return tuple(shlex.split(text))


def _object_name(value: str) -> str:
    if not _OBJECT_NAME.fullmatch(value):
        raise ValueError("write the name of a Kubernetes object: lower-case letters, digits, - and .")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Argv = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_argv)]
ObjectName = Annotated[str, AfterValidator(_object_name)]
