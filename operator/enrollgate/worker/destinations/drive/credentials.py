"""Who asks: a service account, a service account in a user's name, a user, or the workload itself."""

import json
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.settings.worker import WorkerSettings

SCOPE = "https://www.googleapis.com/auth/drive"
"""Files that others made (the folder that is delivered into) are visible with this scope only, not with `drive.file`."""
_VARIABLE = "ENROLLGATE_DRIVE_CREDENTIALS"


def load_credentials(settings: WorkerSettings) -> Any:
    """The credentials of google-auth. Raises Failure (ConfigurationError) that names the file, never its content."""
    if settings.drive_credentials is None:
        return _of_the_workload(settings)
    info = _read(settings.drive_credentials)
    kind = info.get("type")
    try:
        if kind == "service_account":
            account = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]  # google-auth is partly typed
            return (
                account.with_subject(settings.drive_subject) if settings.drive_subject else account
            )
        if kind == "authorized_user":
            if settings.drive_subject:
                raise Failure(
                    Reason.CONFIGURATION_ERROR,
                    f"ENROLLGATE_DRIVE_SUBJECT needs a service account's key in {_VARIABLE}",
                )
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
        message = f"{_VARIABLE}={settings.drive_credentials}: the file is damaged or lacks a field: download or make it again"
        raise Failure(Reason.CONFIGURATION_ERROR, message) from None
    message = f"{_VARIABLE}={settings.drive_credentials}: it is neither a service account's key nor a user's login"
    raise Failure(Reason.CONFIGURATION_ERROR, message)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = (
            f"{_VARIABLE}={path}: {error.strerror}: mend the path, or let the worker read the file"
        )
        raise Failure(Reason.CONFIGURATION_ERROR, message) from error
    except ValueError:
        raise Failure(
            Reason.CONFIGURATION_ERROR, f"{_VARIABLE}={path}: the file is no JSON"
        ) from None
    if not isinstance(content, dict):
        raise Failure(Reason.CONFIGURATION_ERROR, f"{_VARIABLE}={path}: the file is no JSON object")
    return content


def _of_the_workload(settings: WorkerSettings) -> Any:
    if settings.drive_subject:
        raise Failure(
            Reason.CONFIGURATION_ERROR,
            f"ENROLLGATE_DRIVE_SUBJECT needs a service account's key in {_VARIABLE}",
        )
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except google.auth.exceptions.GoogleAuthError:
        message = f"no Google credentials: set {_VARIABLE}, or give the worker a workload identity"
        raise Failure(Reason.CONFIGURATION_ERROR, message) from None
