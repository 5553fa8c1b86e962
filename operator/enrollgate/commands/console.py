"""What all commands share: colours, how a command fails, and how it loads the settings.

A table or a text that changes in place needs rich, which takes a while to import. The commands that
show one import it themselves.
"""

import os
from typing import TYPE_CHECKING, NoReturn

import typer

from enrollgate.common.redaction import printable

if TYPE_CHECKING:
    from enrollgate.settings.operator import Settings

# Whether colours are written: `typer.echo` decides, unless the user wants none
# (https://no-color.org).
COLOR = False if os.environ.get("NO_COLOR") else None


def fail(problem: object, exit_code: int = 2) -> NoReturn:
    """Print the problem to standard error and end the command with this exit code."""
    text = "\n".join(map(printable, str(problem).splitlines()))
    typer.echo(f"{typer.style('enrollgate:', fg='red')} {text}", err=True, color=COLOR)
    raise typer.Exit(exit_code)


def settings_or_fail() -> "Settings":
    """Return the settings. If they are wrong, end the command with exit code 2."""
    # Not every command needs settings, and their models take a while to import.
    from enrollgate.settings.loading import SettingsError, load_settings

    try:
        return load_settings()
    except SettingsError as error:
        fail(error)
