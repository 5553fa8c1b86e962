"""`enrollgate drive login`: a user's login to Google Drive, for ENROLLGATE_DRIVE_CREDENTIALS."""

from pathlib import Path

import typer

from enrollgate.commands.console import fail
from enrollgate.worker.destinations.drive.login import LoginRefused, log_in


def login(client_secrets: Path, output: Path, port: int) -> None:
    """Log in through a browser and write the login to `output`.

    Ends the command with 2 if `client_secrets` is not usable, with 1 if the login failed.
    """
    try:
        log_in(client_secrets, output, port, typer.echo)
    except OSError as error:
        cause = error.strerror or type(error).__name__
        fail(f"{error.filename or output}: {cause}: fix that and log in again", 1)
    except LoginRefused as error:
        fail(error, 1)
    except ValueError:
        fail(
            f"{client_secrets} is not the JSON of an OAuth client of the type desktop app: "
            "download it again"
        )
    typer.echo(f"{output} is written: set ENROLLGATE_DRIVE_CREDENTIALS to it")
