"""Streams (HLS, DASH), which come in pieces: whole, whatever moment the worker dies at.

yt-dlp counts a piece as appended even where the disk was full, and continues what a killed worker left without looking at its
length: the stream is then short of a piece, or has one twice, and passes for complete. Here a piece goes this way:

    downloaded ──▶ appended ──▶ on the disk ──▶ noted, with the stream's length so far ──▶ removed

What goes beyond the noted length is cut off before the stream is continued.
"""

import contextlib
import glob
import json
import os
import re
from pathlib import Path
from typing import Any

from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.hls import HlsFD

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.disk import write_private
from enrollgate.worker.downloaders.pages import refuse_page

_DRM = re.compile(r'(?m)^#EXT-X-(?:SESSION-)?KEY:.*?(?:METHOD=(?!(?:NONE|AES-128)\s*(?:,|$))|KEYFORMAT="(?!identity"))')


class _Whole(FragmentFD):  # type: ignore[misc]  # yt-dlp carries no types
    """What all streams have in common."""

    def _prepare_frag_download(self, ctx: dict[str, Any]) -> None:
        _return_to_the_note(Path(self.temp_name(ctx["filename"])), Path(self.ytdl_filename(ctx["filename"])))
        super()._prepare_frag_download(ctx)

    def _read_fragment(self, ctx: dict[str, Any]) -> Any:
        if ctx.get("fragment_filename_sanitized"):
            refuse_page(Path(ctx["fragment_filename_sanitized"]))
        return super()._read_fragment(ctx)

    def _append_fragment(self, ctx: dict[str, Any], piece: bytes) -> None:
        stream = ctx["dest_stream"]
        with contextlib.ExitStack() as failed:
            failed.callback(stream.close)  # or what is buffered would be written whenever there is room again
            stream.write(piece)
            stream.flush()
            os.fdatasync(stream.fileno())
            failed.pop_all()
        ctx.setdefault("extra_state", {})["size"] = os.fstat(stream.fileno()).st_size
        self._write_ytdl_file(ctx)
        self.try_remove(ctx.pop("fragment_filename_sanitized"))

    def _write_ytdl_file(self, ctx: dict[str, Any]) -> None:
        note = {"current_fragment": {"index": ctx["fragment_index"]}, "extra_state": ctx.get("extra_state", {})}
        write_private(Path(self.ytdl_filename(ctx["filename"])), json.dumps({"downloader": note}))


class WholeHls(_Whole, HlsFD):  # type: ignore[misc]  # as above
    """HLS. A key that the site itself hands to the account (AES-128) is no DRM; all other protection is, and is left alone."""

    @classmethod
    def can_download(cls, manifest: str, info: dict[str, Any], allow_unplayable_formats: bool = False) -> bool:
        """Raises Failure before anything of a DRM-protected stream, its key included, is asked for."""
        if _DRM.search(manifest):
            raise Failure(Reason.DRM_PROTECTED, "this stream is DRM-protected")
        return bool(super().can_download(manifest, info, allow_unplayable_formats))


class WholeDash(_Whole, DashSegmentsFD):  # type: ignore[misc]  # as above
    """DASH."""


def _return_to_the_note(part: Path, note: Path) -> None:
    """Makes the stream what it was when its last piece was noted; nothing, where nobody knows what that was."""
    size = _noted_size(note)
    if part.is_file() and 0 < size <= part.stat().st_size:
        os.truncate(part, size)
    else:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    for piece in part.parent.glob(f"{glob.escape(part.name)}-Frag*[0-9]"):
        piece.unlink()  # complete by its name only: a machine that lost power may not have written it


def _noted_size(note: Path) -> int:
    """Bytes; 0 if the note does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(note.read_bytes())["downloader"]
        return int(noted["extra_state"]["size"]) if int(noted["current_fragment"]["index"]) > 0 else 0
    return 0
