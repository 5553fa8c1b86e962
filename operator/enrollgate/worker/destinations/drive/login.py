"""Log in as a Google user on a machine without a browser, for `enrollgate drive login`.

The URL is printed, Google's answer arrives on a loopback port, and the login is written to a file.
"""

import json
from collections.abc import Callable
from pathlib import Path

from google_auth_oauthlib.flow import InstalledAppFlow
from oauthlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]  # oauthlib has no types

from enrollgate.common.files import write_private
from enrollgate.worker.destinations.drive.credentials import SCOPE


class LoginRefused(Exception):
    """Report that Google gave no login, or one without access to Drive, and what to do."""


def log_in(
    client_secrets: Path, output: Path, port: int, print_text: Callable[[str], None]
) -> None:
    """Write the user's login to `output`, an authorized_user file of mode 0600.

    `client_secrets` is the JSON of an OAuth client. `port` is the loopback port; 0 is any free one.
    `print_text` shows the instructions and the URL to the person who logs in.

    Raises ValueError if `client_secrets` is no such file, LoginRefused, and OSError.
    """
    flow = InstalledAppFlow.from_client_secrets_file(str(client_secrets), scopes=[SCOPE])
    shown_port = port or "PORT"
    print_text(
        "Open the address below in a browser and agree. Google's answer goes to a port of this "
        "machine. If the browser runs on another machine, forward the port first "
        f"(ssh -L {shown_port}:localhost:{shown_port}).\n"
        "The scope is `drive`: with `drive.file`, Enrollgate could not deliver into a folder that "
        "someone else created."
    )
    try:
        login = flow.run_local_server(
            port=port,
            open_browser=False,
            authorization_prompt_message="{url}",
            success_message="You may close this page.",
        )
    except OAuth2Error as error:
        raise LoginRefused(
            f"Google gave no login ({error.error}): log in again and agree, with an account that "
            "may use this OAuth client"
        ) from None
    except Warning:  # raised by oauthlib when the granted scope is not the requested one
        raise LoginRefused(
            "the login does not include access to Google Drive: log in again and agree to it"
        ) from None
    content = {"type": "authorized_user"} | json.loads(login.to_json())
    write_private(output, json.dumps(content))
