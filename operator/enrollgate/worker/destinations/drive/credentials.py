"""Load the credentials that Drive is used with.

They are a service account's, a service account's in a user's name, a user's, or the workload's own.
In come the worker's settings, out come credentials of google-auth or a ConfigurationError.
"""

import json
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.settings.worker import WorkerSettings

# With the smaller scope `drive.file`, folders that others created are not visible.
SCOPE = "https://www.googleapis.com/auth/drive"
_VARIABLE = "ENROLLGATE_DRIVE_CREDENTIALS"


def load_credentials(settings: WorkerSettings) -> Any:
    """Return the credentials of google-auth.

    Raises Failure (ConfigurationError). It names the file, never its content.
    """
    path, subject = settings.drive_credentials, settings.drive_subject
    info = None if path is None else _read_json_object(path)
    kind = None if info is None else info.get("type")
    if subject and (info is None or kind == "authorized_user"):
        raise Failure(
            Reason.CONFIGURATION_ERROR,
            f"ENROLLGATE_DRIVE_SUBJECT needs a service account's key in {_VARIABLE}",
            remedy=f"Set {_VARIABLE} to such a key, or remove ENROLLGATE_DRIVE_SUBJECT.",
        )
    try:
        if info is None:
            return google.auth.default(scopes=[SCOPE])[0]
        if kind == "service_account":
            robot: Any = service_account.Credentials
            account = robot.from_service_account_info(info, scopes=[SCOPE])
            return account.with_subject(subject) if subject else account
        if kind == "authorized_user":
            user: Any = user_credentials.Credentials
            return user(
                None,
                refresh_token=info["refresh_token"],
                client_id=info["client_id"],
                client_secret=info["client_secret"],
                token_uri=info.get("token_uri") or "https://oauth2.googleapis.com/token",
                scopes=info.get("scopes"),
            )
    except (ValueError, KeyError, TypeError, google.auth.exceptions.GoogleAuthError):
        if path is None:
            message = "no Google credentials are set"
            remedy = f"Set {_VARIABLE}, or give the worker a workload identity."
        else:
            message = f"{_VARIABLE}={path}: the file is damaged or lacks a field"
            remedy = "Download the key again, or log in again."
        raise Failure(Reason.CONFIGURATION_ERROR, message, remedy=remedy) from None
    raise Failure(
        Reason.CONFIGURATION_ERROR,
        f"{_VARIABLE}={path}: it is neither a service account's key nor a user's login",
        remedy="Name such a file: docs/destinations.md says how to get one.",
    )


def _read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file. Raises Failure if it cannot be read or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(
            Reason.CONFIGURATION_ERROR,
            f"{_VARIABLE}={path}: {error.strerror}",
            remedy="Correct the path, or let the worker read the file.",
        ) from error
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Failure(
            Reason.CONFIGURATION_ERROR,
            f"{_VARIABLE}={path}: the file is no JSON object",
            remedy="Download the key again, or log in again.",
        )
    return content
