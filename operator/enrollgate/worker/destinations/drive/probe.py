"""The doctor's proof that a folder can be delivered to: a probe file is written, its MD5 read back, and put into the bin."""

import tempfile
import threading
import uuid
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from enrollgate.domain.check import Check, failed, ok
from enrollgate.domain.reasons import Failure
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.errors import parted
from enrollgate.worker.destinations.drive.folders import Folders
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import Ids, UploadRequest, Uploads


def check_drive(settings: WorkerSettings, folder_id: str) -> Check:
    """Only a real file proves access: a service account without storage may list and make folders."""
    try:
        with tempfile.TemporaryDirectory(prefix="enrollgate-probe-") as scratch:
            _write_and_trash(settings, folder_id, Path(scratch))
    except Failure as failure:
        return failed("destination", *parted(failure))
    return ok(
        "destination",
        f"Google Drive folder {folder_id}: a probe file was written, verified and put into the bin",
    )


def _write_and_trash(settings: WorkerSettings, folder_id: str, scratch: Path) -> None:
    client, stop = Client(load_credentials(settings), settings.drive_endpoint), threading.Event()
    retry_policy = RetryPolicy(Random()).shorter()  # noqa: S311 -- jitter; someone waits for the doctor
    ids, sessions = Ids(client, retry_policy), SessionStore(scratch / "sessions")
    Folders(client, retry_policy, ids, sessions, stop).root(folder_id)
    name = f".enrollgate-probe-{uuid.uuid4().hex}"
    file = scratch / name
    file.write_bytes(b"probe")

    def body(_md5: str) -> dict[str, Any]:
        return {"name": name}

    uploads = Uploads(client, retry_policy, ids, sessions, settings.drive_chunk_size)
    done = uploads.upload(UploadRequest("probe", file, folder_id, body), lambda _sent: None, stop)
    retry_policy.call(partial(client.trash, done["id"]), stop)
