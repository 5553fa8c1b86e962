"""Streams (HLS, DASH), which come in pieces: whole, whatever moment the worker dies at.

yt-dlp counts a piece as appended even where the disk was full, and continues what a killed worker left without looking at its
length: the stream is then short of a piece, or has one twice, and passes for complete. Here a piece goes this way:

    downloaded ──▶ appended ──▶ on the disk ──▶ noted, with the stream's length so far ──▶ removed

What goes beyond the noted length is cut off before the stream is continued. yt-dlp has a piece in memory as a whole, too, and
some sites hand out a lecture as a single one; here it goes in blocks, decrypted on the way.
"""

import contextlib
import functools
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from Cryptodome.Cipher import AES
from Cryptodome.Util.Padding import unpad
from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.hls import HlsFD

from enrollgate.common.files import write_private
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.pages import HEAD, refuse_page, refuse_page_as_key
from enrollgate.worker.scratch import CHUNK_SIZE

_BLOCK = CHUNK_SIZE
"""Bytes: a multiple of what AES takes at once."""
_DRM = re.compile(
    r'(?m)^#EXT-X-(?:SESSION-)?KEY:.*?(?:METHOD=(?!(?:NONE|AES-128)\s*(?:,|$))|KEYFORMAT="(?!identity"))'
)


class DurableFragmentFD(FragmentFD):  # type: ignore[misc]  # yt-dlp carries no types
    """What all streams have in common."""

    def _prepare_frag_download(self, ctx: dict[str, Any]) -> None:
        _truncate_to_checkpoint(
            Path(self.temp_name(ctx["filename"])), Path(self.ytdl_filename(ctx["filename"]))
        )
        super()._prepare_frag_download(ctx)

    def _prepare_and_start_frag_download(self, ctx: dict[str, Any], info: dict[str, Any]) -> None:
        super()._prepare_and_start_frag_download(ctx, info)
        ctx["noted"], ctx["fragment_index"] = ctx["fragment_index"], 0

    def download_and_append_fragments(
        self,
        ctx: dict[str, Any],
        fragments: Iterable[dict[str, Any]],
        info: dict[str, Any],
        **options: Any,
    ) -> Any:
        """Downloads what is missing. If it were yt-dlp that leaves out what is there, the others would get wrong numbers (they may
        be encrypted under them) and wrong ranges."""
        missing = (piece for piece in fragments if piece["frag_index"] > ctx["noted"])
        return super().download_and_append_fragments(ctx, missing, info, **options)

    def _read_fragment(self, ctx: dict[str, Any]) -> Iterator[bytes] | None:
        name = ctx.get("fragment_filename_sanitized")
        if not name:
            return None
        refuse_page(Path(name))
        return _blocks(Path(name)) if Path(name).stat().st_size else None

    def _append_fragment(self, ctx: dict[str, Any], blocks: Iterable[bytes]) -> None:
        stream = ctx["dest_stream"]
        with contextlib.ExitStack() as failed:
            failed.callback(
                stream.close
            )  # or what is buffered would be written whenever there is room again
            stream.writelines(blocks)
            stream.flush()
            os.fdatasync(stream.fileno())
            failed.pop_all()
        ctx.setdefault("extra_state", {})["size"] = os.fstat(stream.fileno()).st_size
        self._write_ytdl_file(ctx)
        self.try_remove(ctx.pop("fragment_filename_sanitized"))

    def _write_ytdl_file(self, ctx: dict[str, Any]) -> None:
        note = {
            "current_fragment": {"index": ctx["fragment_index"]},
            "extra_state": ctx.get("extra_state", {}),
        }
        write_private(Path(self.ytdl_filename(ctx["filename"])), json.dumps({"downloader": note}))


class DurableHlsFD(DurableFragmentFD, HlsFD):  # type: ignore[misc]  # as above
    """HLS. A key that the site itself hands to the account (AES-128) is no DRM; all other protection is, and is left alone."""

    _has_map = False

    def can_download(
        self, manifest: str, info: dict[str, Any], allow_unplayable_formats: bool = False
    ) -> bool:
        """Raises Failure before anything of a DRM-protected stream, its key included, is asked for."""
        if _DRM.search(manifest):
            raise Failure(Reason.DRM_PROTECTED, "this stream is DRM-protected")
        self._has_map = "#EXT-X-MAP" in manifest
        return bool(super().can_download(manifest, info, allow_unplayable_formats))

    def decrypter(
        self, info: dict[str, Any]
    ) -> Callable[[dict[str, Any], Iterator[bytes] | None], Any]:
        """What decrypts the pieces that want it, as yt-dlp does it, but block by block."""

        @functools.cache
        def fetched(url: str) -> bytes:
            with self.ydl.urlopen(self._prepare_url(info, url)) as answer:
                key: bytes = answer.read(HEAD)
            refuse_page_as_key(key)
            return key

        def decrypt(
            piece: dict[str, Any], blocks: Iterator[bytes] | None
        ) -> Iterator[bytes] | None:
            how = piece.get("decrypt_info") or {}
            if blocks is None or how.get("METHOD") != "AES-128":
                return blocks
            key = how.get("KEY") or fetched((info.get("hls_aes") or {}).get("uri") or how["URI"])
            return _decrypted(blocks, key, how.get("IV") or self._number(piece).to_bytes(16))

        return decrypt

    def _number(self, piece: dict[str, Any]) -> int:
        """The piece's number in the playlist. yt-dlp counts the initial section, which has none."""
        return int(piece["media_sequence"]) - (self._has_map and piece["frag_index"] > 1)


class DurableDashFD(DurableFragmentFD, DashSegmentsFD):  # type: ignore[misc]  # as above
    """DASH."""


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _decrypted(blocks: Iterator[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
    """AES-CBC, padded at the end. Raises Failure."""
    try:
        cipher, last = AES.new(key, AES.MODE_CBC, iv), b""
        for block in blocks:
            yield last
            last = cipher.decrypt(block)
        yield unpad(last, AES.block_size)
    except ValueError as error:
        message = "a piece of the stream is cut short, or the site's key does not fit it"
        raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from error


def _truncate_to_checkpoint(part: Path, note: Path) -> None:
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
        return (
            int(noted["extra_state"]["size"]) if int(noted["current_fragment"]["index"]) > 0 else 0
        )
    return 0
