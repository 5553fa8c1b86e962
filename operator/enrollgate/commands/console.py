"""What all commands share: the two streams, how a command fails, and how it loads the settings."""

from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from enrollgate.settings.operator import Settings

OUT = Console(emoji=False)
ERR = Console(stderr=True, emoji=False)


def fail(problem: object, exit_code: int = 2) -> NoReturn:
    """Print the problem to standard error and end the command with this exit code."""
    ERR.print(f"[red]enrollgate:[/] {escape(str(problem))}", soft_wrap=True)
    raise typer.Exit(exit_code)


def settings_or_fail() -> "Settings":
    """Return the settings. If they are wrong, end the command with exit code 2."""
    # Not every command needs settings, and their models take a while to import.
    from enrollgate.settings.loading import SettingsError, load_settings

    try:
        return load_settings()
    except SettingsError as error:
        fail(error)
