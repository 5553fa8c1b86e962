"""A user's login for a machine without a browser: the URL is printed, and Google's answer awaited on a loopback port."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google_auth_oauthlib.flow import InstalledAppFlow
from oauthlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]  # oauthlib has no types

from enrollgate.common.files import write_private
from enrollgate.worker.destinations.drive.credentials import SCOPE


class NoConsent(Exception):
    """Google gave no login, or one that does not do. Its text says what to do."""


def log_in(client_secrets: Path, output: Path, port: int, say: Callable[[str], None]) -> None:
    """Writes an authorized_user file of mode 0600. Raises ValueError if the client secrets are none, NoConsent, OSError."""
    flow = InstalledAppFlow.from_client_secrets_file(str(client_secrets), scopes=[SCOPE])
    say(
        "Open the address below in a browser and agree. It comes back to a port of this machine: if the browser runs on "
        f"another one, forward that port first (ssh -L {port or 'PORT'}:localhost:{port or 'PORT'}).\n"
        "The scope is `drive`: with `drive.file`, folders that others made could not be delivered into."
    )
    login = _ask(flow, port)
    write_private(output, login.to_json().replace("{", '{"type": "authorized_user", ', 1))


def _ask(flow: InstalledAppFlow, port: int) -> Any:
    try:
        return flow.run_local_server(
            port=port,
            open_browser=False,
            authorization_prompt_message="{url}",
            success_message="You may close this page.",
        )
    except OAuth2Error as error:
        message = f"Google gave no login ({error.error}): log in again and agree, with an account that may use this OAuth client"
        raise NoConsent(message) from None
    except Warning:  # what oauthlib raises when the scope is not the one that was asked for
        raise NoConsent(
            "the login does not include access to Google Drive: log in again and agree to it"
        ) from None
