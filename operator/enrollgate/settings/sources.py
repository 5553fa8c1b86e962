"""Where settings come from beside the environment: a mounted file and a folder of secrets. And in all three, the names that
nothing would read: a setting with a typo must not be a setting that is silently not made.
"""

import difflib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from dotenv import dotenv_values

PREFIX = "ENROLLGATE_"
"""Every variable begins with it."""
CONFIG_FILE, SECRETS_DIR = PREFIX + "CONFIG_FILE", PREFIX + "SECRETS_DIR"


def config_file() -> Path | None:
    """The file that the environment names. Raises OSError, in words for the person who set it."""
    path = _named(CONFIG_FILE)
    if path is not None and not path.is_file():
        raise OSError(f"{CONFIG_FILE}={path}: there is no such file: create it, or mend the path")
    return path


def secrets_folder() -> Path | None:
    """The folder that the environment names. Raises OSError likewise."""
    path = _named(SECRETS_DIR)
    if path is not None and not path.is_dir():
        raise OSError(f"{SECRETS_DIR}={path}: there is no such folder: create it, or mend the path")
    return path


def _named(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text) if text else None


def names_in_file(path: Path) -> list[str]:
    """The names that the file sets. Raises OSError, in words for the person who wrote it."""
    try:
        return list(dotenv_values(path, encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise OSError(f"{CONFIG_FILE}={path}: it is not UTF-8 text: write it as such") from error
    except OSError as error:
        raise OSError(
            f"{CONFIG_FILE}={path}: {error.strerror}: let user {os.getuid()} read it"
        ) from error


def secrets_in_folder(path: Path) -> dict[str, str]:
    """What is in the files whose names are a setting's (upper or lower case), as a mounted Secret has them. Raises OSError."""
    found = {}
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise OSError(
            f"{SECRETS_DIR}={path}: {error.strerror}: let user {os.getuid()} read it"
        ) from error
    for file in files:
        name = file.name.upper()
        if not name.startswith(PREFIX) or not file.is_file():
            continue
        try:
            found[name] = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OSError(
                f"{name}: the secret {file} cannot be read ({error.__class__.__name__}): mend its file"
            ) from error
    return found


def unknown_names(
    names: Iterable[str], known: Collection[str], groups: Collection[str], where: str = ""
) -> list[str]:
    """One line for each name with our prefix that is not known, with the remedy. Values are not shown: they may be secrets."""
    place = f" in {where}" if where else ""
    ours = sorted({name.upper() for name in names if name.upper().startswith(PREFIX)})
    return [f"{name}{place}: {_remedy(name, known, groups)}" for name in ours if name not in known]


def _remedy(name: str, known: Collection[str], groups: Collection[str]) -> str:
    if name in (CONFIG_FILE, SECRETS_DIR):
        return "it is read from the environment only: set it there"
    if name in groups:
        parts = sorted(other for other in known if other.startswith(f"{name}__"))
        return f"it is a group and has no value of its own; set its parts, such as {parts[0]}"
    bare = {
        other.removeprefix(PREFIX): other for other in known
    }  # the prefix makes everything alike
    near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, 1)
    remedy = (
        f"did you mean {bare[near[0]]}?"
        if near
        else "remove it; docs/settings.md lists what there is"
    )
    return f"there is no such setting; {remedy}"
