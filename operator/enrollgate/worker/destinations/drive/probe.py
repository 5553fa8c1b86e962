"""The doctor's check of a Drive folder: upload a probe file, verify its MD5, move it to the trash.

Only a real file proves access: a service account without storage may list and create folders.
"""

import tempfile
import threading
import uuid
from functools import partial
from pathlib import Path

from enrollgate.common.files import file_md5
from enrollgate.domain.check import Check, failed, ok
from enrollgate.domain.reasons import Failure, explain
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.files import media_type
from enrollgate.worker.destinations.drive.folders import Folders, IdPool
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import UploadRequest, Uploads


def check_drive(
    settings: WorkerSettings, folder_id: str, retry_policy: RetryPolicy | None = None
) -> Check:
    """Check that courses can be delivered to the folder with this id.

    By default failed requests are retried a few times only, since a person waits for the answer.
    """
    retry_policy = retry_policy or RetryPolicy(threading.Event()).with_few_attempts()
    try:
        with tempfile.TemporaryDirectory(prefix="enrollgate-probe-") as scratch:
            client = Client(load_credentials(settings), settings.drive_endpoint)
            ids = IdPool(client, retry_policy)
            sessions = SessionStore(Path(scratch) / "sessions")
            Folders(client, retry_policy, ids, sessions).find_shared_drive(folder_id)
            name = f".enrollgate-probe-{uuid.uuid4().hex}"
            file = Path(scratch) / name
            file.write_bytes(b"probe")
            uploads = Uploads(client, retry_policy, ids, sessions, settings.drive_chunk_size)
            request = UploadRequest(
                "probe", file, file_md5(file), folder_id, {"name": name}, media_type(file)
            )
            uploaded = uploads.upload(request, lambda _sent: None)
            retry_policy.call(partial(client.trash, uploaded.file_id))
    except Failure as failure:
        remedy = failure.remedy or explain(failure.reason).remedy
        return failed("destination", failure.message, remedy)
    done = "a probe file was written, verified and moved to the trash"
    return ok("destination", f"Google Drive folder {folder_id}: {done}")
