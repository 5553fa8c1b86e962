"""A user's login for a machine without a browser: the URL is printed, and Google's answer awaited on a loopback port."""

import os
from collections.abc import Callable
from pathlib import Path

from google_auth_oauthlib.flow import InstalledAppFlow

from enrollgate.worker.destinations.drive.credentials import SCOPE


def log_in(client_secrets: Path, output: Path, port: int, say: Callable[[str], None]) -> None:
    """Writes an authorized_user file of mode 0600. Raises ValueError if the client secrets are none; OSError."""
    flow = InstalledAppFlow.from_client_secrets_file(str(client_secrets), scopes=[SCOPE])
    say(
        "Open the address below in a browser and agree. It comes back to a port of this machine: if the browser runs on "
        f"another one, forward that port first (ssh -L {port or 'PORT'}:localhost:{port or 'PORT'}).\n"
        "The scope is `drive`: with `drive.file`, folders that others made could not be delivered into."
    )
    login = flow.run_local_server(
        port=port, open_browser=False, authorization_prompt_message="{url}", success_message="You may close this page."
    )
    part = output.with_name(output.name + ".new")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(login.to_json().replace("{", '{"type": "authorized_user", ', 1))
    part.replace(output)
