"""Download one file by HTTP: whole, and of one version only.

yt-dlp's own downloader continues a partial file with whatever the site has there by now. Here a
note beside the partial file says which version it is of. It is written before the first byte.

    nothing on disk ──▶ GET ─────────────────────────▶ 200 ──▶ write
    a partial file ───▶ GET Range + If-Range ──▶ 206 of the same version ──▶ append
                                            └──▶ 200 ──▶ start over
                                            └──▶ another version, another range, 416 ──▶ start over

A byte range that a stream asks for goes the same way. A server that ignores ranges sends the whole
file; then only the bytes of the range are taken.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yt_dlp.utils import ContentTooShortError

from enrollgate.common.files import write_private
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.versions import Version, read_content_range, read_version
from enrollgate.worker.downloaders.yt_dlp_compat import (
    CertificateVerifyError,
    HTTPError,
    HttpFD,
    HTTPHeaderDict,
    Request,
    Response,
    RetryManager,
    TransportError,
)
from enrollgate.worker.identity import digest, unsigned
from enrollgate.worker.scratch import CHUNK_SIZE

# How often one download starts over because the file is another one.
_MAX_STARTS = 3
# Bytes of whole files that one download may read for nothing, from a server that ignores ranges.
_MAX_SKIPPED = 256 << 20
_NOTE = ".version"


class FileReplaced(Failure):
    """The site replaced the file that a stream's byte ranges belong to."""


@dataclass(frozen=True, slots=True)
class _Range:
    """Bytes from `start` to before `stop`; None: to the end."""

    start: int = 0
    stop: int | None = None


class _StartOver(Exception):
    """What is on disk cannot be continued."""


class DurableHttpFD(HttpFD):  # type: ignore[misc]  # yt-dlp has no types
    """Direct files, and the fragments of streams."""

    def __init__(self, ydl: Any, params: dict[str, Any]) -> None:
        super().__init__(ydl, params)
        # Of files of which byte ranges were fetched: their versions, by digests of their URLs.
        self.versions = dict[str, Version]()
        self._skipped = 0

    def real_download(self, filename: str, info_dict: dict[str, Any]) -> bool:
        """Download to `filename`. Raises Failure (IncompleteDownload) if it is not one file."""
        part, started = Path(self.temp_name(filename)), time.monotonic()
        starts = 0
        for retry in RetryManager(self.params.get("retries"), self.report_retry):
            try:
                while not self._fetch_some(filename, part, info_dict):
                    pass
            except _StartOver as error:
                part.unlink(missing_ok=True)
                starts += 1
                if starts > _MAX_STARTS:
                    message = "the site sends another version of the file each time"
                    raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from error
                retry.attempt -= 1
                retry.error = None
            except HTTPError as error:
                if not 500 <= error.status < 600:
                    raise
                retry.error = error
            except CertificateVerifyError:
                raise
            except (TransportError, ContentTooShortError) as error:
                retry.error = error
            else:
                size = part.stat().st_size
                part.replace(filename)
                status = {
                    "status": "finished",
                    "filename": filename,
                    "downloaded_bytes": size,
                    "total_bytes": size,
                    "elapsed": time.monotonic() - started,
                    "ctx_id": info_dict.get("ctx_id"),
                }
                self._hook_progress(status, info_dict)
                return True
        return False

    def _fetch_some(self, filename: str, part: Path, info: dict[str, Any]) -> bool:
        """Send one request and write its answer. Returns whether the file is complete.

        Raises _StartOver, and ContentTooShortError if the answer ends too early.
        """
        headers = HTTPHeaderDict({"Accept-Encoding": "identity"}, info.get("http_headers"))
        # yt-dlp's own ranges always have one form.
        first, _, last = headers.pop("Range", "").removeprefix("bytes=").partition("-")
        wanted = _Range(int(first or 0), int(last) + 1 if last else None)
        note = Path(filename + _NOTE)
        have = part.stat().st_size if part.is_file() else 0
        earlier = read_note(Path(filename)) if have else None
        if have and (earlier is None or not earlier.condition):
            raise _StartOver
        start = wanted.start + have
        if wanted.stop is not None and start >= wanted.stop:
            raise _StartOver
        if have and earlier is not None:
            headers["If-Range"] = earlier.condition
        if start or wanted.stop is not None:
            headers["Range"] = f"bytes={start}-{'' if wanted.stop is None else wanted.stop - 1}"
        try:
            response = self.ydl.urlopen(Request(info["url"], info.get("request_data"), headers))
        except HTTPError as error:
            if error.status == 416 and have:
                raise _StartOver from error
            raise
        with contextlib.closing(response):
            version = read_version(response.headers)
            length = version.validators.length
            if response.status == 206:
                answered = _check_range(response, _Range(start, wanted.stop), resumes=have > 0)
                if have and earlier is not None and not version.may_continue(earlier):
                    raise _StartOver
            else:
                # The whole file: what is on disk is dropped.
                have, answered = 0, _Range(0, length)
            if wanted != _Range():
                self._check_version(info["url"], version)
            if None not in (wanted.stop, length) and (length or 0) < (wanted.stop or 0):
                message = "the file ends before the byte range that the stream needs of it"
                raise Failure(Reason.INCOMPLETE_DOWNLOAD, message)
            if not have:
                part.unlink(missing_ok=True)
                write_private(note, version.encode())
            plan = replace(wanted, stop=wanted.stop or length)
            status = {
                "status": "downloading",
                "filename": filename,
                "tmpfilename": str(part),
                "ctx_id": info.get("ctx_id"),
            }

            def report(size: int) -> None:
                sizes = {"downloaded_bytes": size, "total_bytes": _size(plan)}
                self._hook_progress({**status, **sizes}, info)

            return self._write(response, part, plan, answered, report)

    def _check_version(self, url: str, version: Version) -> None:
        """Raise FileReplaced if byte ranges of a file come from two versions of it."""
        key = digest(unsigned(url))
        first = self.versions.setdefault(key, version)
        if not version.may_continue(first):
            message = "the site replaced the file of this stream while it was downloaded"
            raise FileReplaced(Reason.INCOMPLETE_DOWNLOAD, message)

    def _write(
        self,
        response: Response,
        part: Path,
        plan: _Range,
        answered: _Range,
        report: Callable[[int], None],
    ) -> bool:
        """Append what the plan lacks, from an answer that has the bytes `answered`.

        Returns whether all is there. If the server sent less than was asked for, but all that it
        announced, the next request asks for the rest.
        """
        have = part.stat().st_size if part.is_file() else 0
        position, needed = answered.start, plan.start + have
        size = _size(plan)
        if needed > position:
            self._skipped += needed - position
            if self._skipped > _MAX_SKIPPED:
                message = "the site ignores byte ranges, and this stream consists of them"
                raise Failure(Reason.INCOMPLETE_DOWNLOAD, message)
        with part.open("ab") as stream:
            while size is None or have < size:
                block = response.read(CHUNK_SIZE)
                if not block:
                    break
                begin = max(0, min(len(block), needed - position))
                position += len(block)
                block = block[begin:] if size is None else block[begin : begin + size - have]
                stream.write(block)
                have += len(block)
                needed += len(block)
                report(have)
        is_short = size is None or have < size
        if is_short and answered.stop is not None and position < answered.stop:
            raise ContentTooShortError(have, have + answered.stop - position)
        if not have:
            raise Failure(Reason.INCOMPLETE_DOWNLOAD, "the site sent an empty file")
        return size is None or have == size


def _check_range(response: Response, asked: _Range, *, resumes: bool) -> _Range:
    """Return the range of an answer 206, which begins where we asked.

    Raises _StartOver if a partial file cannot be continued with it, else Failure.
    """
    got = read_content_range(response.headers)
    if (
        got is not None
        and got.start == asked.start
        and (asked.stop is None or got.stop <= asked.stop)
        and not response.headers.get("Content-Encoding")
    ):
        return _Range(got.start, got.stop)
    if resumes:
        raise _StartOver
    message = "the site answers with another part of the file than asked for"
    raise Failure(Reason.INCOMPLETE_DOWNLOAD, message)


def read_note(file: Path) -> Version | None:
    """Return the version of a file that DurableHttpFD has downloaded, or has begun to."""
    try:
        return Version.decode(file.with_name(file.name + _NOTE).read_text())
    except (OSError, ValueError):
        return None


def remove_note(file: Path) -> None:
    """Remove the note of a file's version."""
    file.with_name(file.name + _NOTE).unlink(missing_ok=True)


def _size(plan: _Range) -> int | None:
    return None if plan.stop is None else plan.stop - plan.start
