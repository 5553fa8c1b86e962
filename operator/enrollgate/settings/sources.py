"""Where settings come from besides the environment: a mounted file and a folder of secrets.

`settings.loading` asks this module which names each source sets, so that it can refuse the unknown
ones. pydantic-settings then reads the values.
"""

import os
from pathlib import Path

from dotenv import dotenv_values
from pydantic_settings import NestedSecretsSettingsSource

# Every variable begins with it.
PREFIX = "ENROLLGATE_"
CONFIG_FILE, SECRETS_DIR = PREFIX + "CONFIG_FILE", PREFIX + "SECRETS_DIR"


class SecretsFolder(NestedSecretsSettingsSource):
    """Read settings from a folder with one file per variable, as Kubernetes mounts a Secret.

    Unlike its base class, it reads only the files that are named like a setting. The folder may
    hold other files, and a file may be a link to another folder.
    """

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        """Return the text of each file whose name begins with our prefix, in any case.

        Raises OSError whose message names the file or the folder.
        """
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
                    f"{name}: the secret {file} cannot be read ({error.__class__.__name__}): "
                    f"write UTF-8 text that user {os.getuid()} may read"
                ) from error
        return found


def config_file() -> Path | None:
    """Return the file of ENROLLGATE_CONFIG_FILE, if set. Raises OSError if it is missing."""
    text = os.environ.get(CONFIG_FILE)
    if text and not Path(text).is_file():
        raise OSError(f"{CONFIG_FILE}={text}: there is no such file: create it, or fix the path")
    return Path(text) if text else None


def secrets_folder() -> Path | None:
    """Return the folder of ENROLLGATE_SECRETS_DIR, if set. Raises OSError if it is missing."""
    text = os.environ.get(SECRETS_DIR)
    if text and not Path(text).is_dir():
        raise OSError(f"{SECRETS_DIR}={text}: there is no such folder: create it, or fix the path")
    return Path(text) if text else None


def names_in_file(path: Path) -> list[str]:
    """Return the names that the file sets. Raises OSError whose message names the file."""
    try:
        return list(dotenv_values(path, encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise OSError(f"{CONFIG_FILE}={path}: it is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise OSError(
            f"{CONFIG_FILE}={path}: {error.strerror}: let user {os.getuid()} read it"
        ) from error
