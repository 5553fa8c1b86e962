"""The doctor's proof that a folder can be delivered to: a probe file is written, its MD5 read back, and put into the bin."""

import tempfile
import threading
import uuid
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from enrollgate.domain.check import Check, failed, ok
from enrollgate.domain.order import DriveAccess
from enrollgate.domain.reasons import Failure
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.errors import parted
from enrollgate.worker.destinations.drive.folders import Folders
from enrollgate.worker.destinations.drive.patience import Patience
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import Ids, Parcel, Uploads


def check_drive(access: DriveAccess, folder_id: str) -> Check:
    """Only a real file proves access: a service account without storage may list and make folders."""
    try:
        with tempfile.TemporaryDirectory(prefix="enrollgate-probe-") as scratch:
            _write_and_trash(access, folder_id, Path(scratch))
    except Failure as failure:
        return failed("destination", *parted(failure))
    return ok(
        "destination", f"Google Drive folder {folder_id}: a probe file was written, verified and put into the bin"
    )


def _write_and_trash(access: DriveAccess, folder_id: str, scratch: Path) -> None:
    client, stop = Client(load_credentials(access), access.endpoint), threading.Event()
    patience = Patience(Random()).shorter()  # noqa: S311 -- jitter; someone waits for the doctor
    ids, sessions = Ids(client, patience), SessionStore(scratch / "sessions")
    Folders(client, patience, ids, sessions, stop).root(folder_id)
    name = f".enrollgate-probe-{uuid.uuid4().hex}"
    file = scratch / name
    file.write_bytes(b"probe")

    def body(_md5: str) -> dict[str, Any]:
        return {"name": name}

    uploads = Uploads(client, patience, ids, sessions, access.chunk_size)
    done = uploads.upload(Parcel("probe", file, folder_id, body), lambda _sent: None, stop)
    patience.call(partial(client.trash, done["id"]), stop)
