"""Generate docs/settings.md: `python -m scripts.docs.settings [--check FILE]`."""

import sys
from typing import Literal, get_args, get_origin

from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from scripts.docs.generated import print_or_check

from enrollgate.settings.loading import variables

_HEAD = """# Settings

Every setting is an environment variable. You can also put settings into a file of `NAME=value`
lines and name it in `ENROLLGATE_CONFIG_FILE`. Secrets can be files of a folder, named like the
variables (a mounted Secret): name the folder in `ENROLLGATE_SECRETS_DIR`. The secrets folder takes
precedence over the environment, and the environment over the file.

Write times in seconds, or as `90s`, `5m`, `6h` or `1d`. Enrollgate refuses to start if a value is
wrong, or if a name begins with `ENROLLGATE_` and is not a setting. The message names it.
`enrollgate doctor` checks what the settings point to.

This page is generated: `make docs`.

| variable | default | meaning |
| --- | --- | --- |
"""


def render() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_row(name, field) for name, field in variables().items())


def _row(name: str, field: FieldInfo) -> str:
    meaning = str(field.description)
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if field.examples:
        meaning += f" Example: `{field.examples[0]}`."
    if values and not all(f"`{value}`" in meaning for value in values):
        meaning += f" One of: {', '.join(f'`{value}`' for value in values)}."
    return f"| `{name}` | {_default(field.default)} | {meaning.replace('|', chr(92) + '|')} |\n"


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined or isinstance(value, SecretStr) or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable().replace('.0', '')}`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
