"""What all commands share: colours, how a command fails, and how it loads the settings.

A table or a text that changes in place needs rich, which takes a while to import. The commands that
show one import it themselves.
"""

import getpass
import os
import socket
import sys
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
    from enrollgate.commands.layout import fit

    first, *more = map(printable, f"enrollgate: {problem}".splitlines())
    text = "\n".join(fit(line, sys.stderr) for line in (first, *more))
    name, colon, text = text.partition(":")
    typer.echo(f"{typer.style(name + colon, fg='red')}{text}", err=True, color=COLOR)
    raise typer.Exit(exit_code)


def say(line: str, *, err: bool = False) -> None:
    """Print a sentence, broken between words if it is for a terminal."""
    from enrollgate.commands.layout import fit

    typer.echo(fit(line, sys.stderr if err else sys.stdout), err=err)


def find_actor(name: str | None) -> str:
    """Return who types a command, for the record: `name`, else the user and the machine.

    If the name is an e-mail address, end the command with exit code 2: the name is shown to
    Node.js and to people.
    """
    from enrollgate.common.redaction import redact

    if name is None:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            user = f"uid {os.getuid()}"
        return redact(f"{user} on {socket.gethostname()}", 200)
    if not name.strip():
        fail("--as is empty: write who does this")
    if redact(name.strip(), 200) != name.strip():
        fail("--as: write a name of up to 200 characters, and no e-mail address: it is shown")
    return name.strip()


def settings_or_fail() -> "Settings":
    """Return the settings. If they are wrong, end the command with exit code 2."""
    # Not every command needs settings, and their models take a while to import.
    from enrollgate.settings.loading import SettingsError, load_settings

    try:
        return load_settings()
    except SettingsError as error:
        fail(error)
