"""The Drive v3 client: one HTTP object a thread, the static discovery document, any endpoint."""

import json
import threading
import weakref
from functools import cache
from importlib import resources
from typing import Any

import google_auth_httplib2
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import build_http

SILENCE = 60
"""Seconds without a byte from the other side, after which a connection counts as cut. It covers stalls in either direction."""
FOLDER = "application/vnd.google-apps.folder"
FIELDS = "id,name,mimeType,size,md5Checksum,createdTime,appProperties,parents,webViewLink"


class Client:
    """Gives each thread a service of its own: httplib2 is not thread-safe."""

    def __init__(self, credentials: Any, endpoint: str) -> None:
        self._credentials = credentials
        self._endpoint = endpoint.rstrip("/") + "/"
        self._mine = threading.local()
        self._opened: list[Any] = []
        weakref.finalize(self, _close, self._opened)

    def files(self) -> Any:
        """The thread's `files` resource."""
        files = getattr(self._mine, "files", None)
        if files is None:
            plain = build_http()
            plain.timeout = SILENCE
            self._opened.append(plain)
            http = google_auth_httplib2.AuthorizedHttp(self._credentials, http=plain)
            service = build_from_document(
                {**_discovery(), "rootUrl": self._endpoint},
                http=http,
                client_options={"api_endpoint": self._endpoint + "drive/v3/"},
            )
            files = self._mine.files = service.files()
        return files

    def hang_up(self) -> None:
        """Closes the calling thread's connections: after a broken answer, what is left in them belongs to nobody."""
        files = getattr(self._mine, "files", None)
        if files is not None:
            files._http.http.close()

    def get(self, file_id: str, fields: str = FIELDS) -> Any:
        """A request for a file's or a folder's metadata."""
        return self.files().get(fileId=file_id, fields=fields, supportsAllDrives=True)

    def delete(self, file_id: str) -> None:
        """Deletes a file for good; one that is gone already is as good."""
        try:
            self.files().delete(fileId=file_id, supportsAllDrives=True).execute()
        except HttpError as error:
            if error.resp.status != 404:
                raise

    def create(self, body: dict[str, Any], media: Any = None) -> Any:
        """A request that makes a folder, or with `media` begins a resumable upload."""
        return self.files().create(body=body, media_body=media, fields=FIELDS, supportsAllDrives=True)

    def list(self, query: str, drive_id: str | None, page: str | None) -> Any:
        """A request for one page of the files that match, the oldest first."""
        corpus = {"corpora": "drive", "driveId": drive_id} if drive_id else {"corpora": "user"}
        return self.files().list(
            q=query,
            fields=f"nextPageToken,files({FIELDS})",
            pageSize=1000,
            pageToken=page,
            orderBy="createdTime",
            supportsAllDrives=True,
            includeItemsFromAllDrives=True,
            **corpus,
        )

    def generate_ids(self, count: int) -> Any:
        """A request for ids of files that are yet to be."""
        return self.files().generateIds(count=count, space="drive")


def _close(connections: list[Any]) -> None:
    for http in connections:
        http.close()


@cache
def _discovery() -> dict[str, Any]:
    text = resources.files("googleapiclient.discovery_cache").joinpath("documents/drive.v3.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
