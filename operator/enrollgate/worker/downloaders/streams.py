"""Download HLS and DASH streams so that they are complete, whenever the worker dies.

A stream consists of fragments. yt-dlp counts a fragment as appended even if the disk was full, and
continues a killed worker's file without looking at its length. The stream then lacks a fragment or
has one twice, and passes as complete. Here a fragment takes these steps:

    downloaded -> appended -> on the disk -> checked -> in the log of fragments
        -> in the checkpoint, with the stream's length

The checkpoint is yt-dlp's `.ytdl` file. Bytes beyond its length are cut off before the stream is
continued. yt-dlp also holds a whole fragment in memory, and some sites send a lecture as a single
fragment. Here it is appended, and decrypted, block by block.
"""

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from Cryptodome.Cipher import AES
from Cryptodome.Util.Padding import unpad

from enrollgate.common.files import write_private
from enrollgate.common.strict_json import parse_json
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.containers import CutError, check_fragment
from enrollgate.worker.downloaders.direct import DurableHttpFD, FileReplaced, remove_note
from enrollgate.worker.downloaders.pages import refuse_page, refuse_page_as_key
from enrollgate.worker.downloaders.versions import Version
from enrollgate.worker.downloaders.yt_dlp_compat import DashSegmentsFD, FragmentFD, HlsFD
from enrollgate.worker.file_types import (
    HEAD_SIZE,
    MATROSKA,
    MP4,
    MPEG_TS,
    Family,
    FileType,
    recognise,
)
from enrollgate.worker.fragments import (
    Fragment,
    Listed,
    encode_fragment,
    log_path,
    read_fragments,
)
from enrollgate.worker.identity import digest, unsigned
from enrollgate.worker.scratch import CHUNK_SIZE

_Blocks = Iterator[bytes]
# The extensions of streams that are text.
SUBTITLES = ("vtt", "ttml", "srt")
# Any key that is not plain AES-128 (https://datatracker.ietf.org/doc/html/rfc8216#section-4.3.2.4).
_DRM = re.compile(
    r"(?m)^#EXT-X-(?:SESSION-)?KEY:.*?"
    r'(?:METHOD=(?!(?:NONE|AES-128)\s*(?:,|$))|KEYFORMAT="(?!identity"))'
)


# What a media playlist says of each segment (RFC 8216, 4.3.2.1), in seconds.
_DURATION = re.compile(r"#EXTINF:\s*(\d+)(\.\d+)?")
# yt-dlp leaves out segments that are marked so.
_ADVERTISEMENT = re.compile(r"(?m)^#(ANVATO-SEGMENT-INFO|UPLYNK-SEGMENT)")
# Seconds by which the last fragment may be shorter than its playlist says, because it is rounded,
# or because sound and pictures do not end together: some list the pictures' times for the sound.
_SLACK_OF_WHOLE_SECONDS, _SLACK_OF_ONE_TRACK = 1.25, 2.0
# Whose fragments are never the same, because their times are in them.
_TIMED = {kind.demuxer for kind in (MPEG_TS, MP4, MATROSKA)}


class DurableFragmentFD(FragmentFD):  # type: ignore[misc]  # yt-dlp has no types
    """What HLS and DASH have in common. `ctx` is yt-dlp's state of one stream's download."""

    _result: object = None
    # What the playlist says of each fragment, in their order. Empty: unknown.
    listed: Sequence[Listed] = ()

    def real_download(self, filename: str, info_dict: dict[str, Any]) -> object:
        """Download the stream and return whether it is complete.

        yt-dlp's own method forgets the result if the stream consists of subtitles.
        """
        self._result = None
        result = super().real_download(filename, info_dict)
        return self._result if result is None else result

    def _prepare_frag_download(self, ctx: dict[str, Any]) -> None:
        stream, checkpoint = self.temp_name(ctx["filename"]), self.ytdl_filename(ctx["filename"])
        kept = _truncate_to_checkpoint(Path(stream), Path(checkpoint))
        ctx["addresses"] = {each.digest: each.address for each in kept}
        super()._prepare_frag_download(ctx)
        ctx["dl"] = DurableHttpFD(self.ydl, ctx["dl"].params)
        # Byte ranges of one file must be of one version of it, in later attempts, too.
        versions = ctx.get("extra_state", {}).get("versions", {})
        decoded = {key: Version.decode(text) for key, text in versions.items()}
        ctx["dl"].versions = {key: each for key, each in decoded.items() if each is not None}

    def _prepare_and_start_frag_download(self, ctx: dict[str, Any], info: dict[str, Any]) -> None:
        super()._prepare_and_start_frag_download(ctx, info)
        ctx["checkpoint_index"], ctx["fragment_index"] = ctx["fragment_index"], 0

    def download_and_append_fragments(
        self,
        ctx: dict[str, Any],
        fragments: Iterable[dict[str, Any]],
        info: dict[str, Any],
        **options: Any,
    ) -> object:
        """Download the fragments that come after the checkpoint.

        yt-dlp must list all of them. If it left out the first ones itself, the others would get
        wrong numbers (they may be encrypted with them) and wrong byte ranges.
        """

        def iterate() -> Iterator[dict[str, Any]]:
            for fragment in fragments:
                if fragment["frag_index"] > ctx["checkpoint_index"]:
                    ctx["fragment"] = fragment  # one is downloaded and appended after the other
                    yield fragment

        ctx["is_text"] = info.get("ext") in SUBTITLES
        if (pack := options.get("pack_func")) is not None:
            # yt-dlp shifts the times of subtitles. It expects a fragment as a whole.
            options["pack_func"] = lambda blocks, index: [pack(b"".join(blocks), index)]
        try:
            self._result = super().download_and_append_fragments(ctx, iterate(), info, **options)
            return self._result
        except (FileReplaced, _FragmentRepeated):
            # What was appended is of the old version, or is itself in a wrong place.
            ctx["dest_stream"].close()
            Path(self.ytdl_filename(ctx["filename"])).unlink(missing_ok=True)
            raise

    def _read_fragment(self, ctx: dict[str, Any]) -> _Blocks | None:
        name = ctx.get("fragment_filename_sanitized")
        if not name:
            return None
        file = Path(name)
        refuse_page(file)
        return _read_blocks(file) if file.stat().st_size else None

    def _append_fragment(self, ctx: dict[str, Any], blocks: Iterable[bytes]) -> None:
        stream, content = ctx["dest_stream"], hashlib.blake2b(digest_size=16)
        start = os.fstat(stream.fileno()).st_size
        with contextlib.ExitStack() as on_error:
            # Otherwise buffered bytes would be written as soon as the disk has room again.
            on_error.callback(stream.close)
            for block in blocks:
                content.update(block)
                stream.write(block)
            stream.flush()
            os.fdatasync(stream.fileno())
            size = os.fstat(stream.fileno()).st_size
            address = "".join(str(ctx["fragment"].get(name)) for name in ("url", "byte_range"))
            index = ctx["fragment_index"]
            listed = self.listed[index - 1] if index <= len(self.listed) else Listed()
            fragment = Fragment(size, content.hexdigest(), digest(unsigned(address)), listed)
            if not ctx["is_text"]:
                kind = _check_appended(Path(ctx["tmpfilename"]), start)
                first = ctx["addresses"].setdefault(fragment.digest, fragment.address)
                is_media = kind.demuxer in _TIMED and (listed.seconds > 0 or not self.listed)
                if first != fragment.address and is_media and listed.continues:
                    message = "the site sent the same fragment of the stream twice"
                    raise _FragmentRepeated(Reason.INCOMPLETE_DOWNLOAD, message)
            with log_path(Path(ctx["filename"])).open("a", encoding="utf-8") as log:
                log.write(encode_fragment(fragment))
            on_error.pop_all()
        state = ctx.setdefault("extra_state", {})
        state["size"] = size
        state["versions"] = {key: each.encode() for key, each in ctx["dl"].versions.items()}
        self._write_ytdl_file(ctx)
        file = ctx.pop("fragment_filename_sanitized")
        self.try_remove(file)
        remove_note(Path(file))

    def _write_ytdl_file(self, ctx: dict[str, Any]) -> None:
        checkpoint = {
            "current_fragment": {"index": ctx["fragment_index"]},
            "extra_state": ctx.get("extra_state", {}),
        }
        file = Path(self.ytdl_filename(ctx["filename"]))
        write_private(file, json.dumps({"downloader": checkpoint}))


class DurableHlsFD(DurableFragmentFD, HlsFD):  # type: ignore[misc]  # yt-dlp has no types
    """HLS.

    A key that the site itself gives to the account (AES-128) is no DRM. Every other protection is,
    and such a stream is left alone.
    """

    _has_map = False

    def can_download(
        self, manifest: str, info: dict[str, Any], allow_unplayable_formats: bool = False
    ) -> bool:
        """Return whether yt-dlp supports the stream.

        Raises Failure: SiteError if it is no playlist, DrmProtected before any part of a protected
        stream, or its key, is requested.
        """
        if not manifest.lstrip("\ufeff \t\r\n").startswith("#EXTM3U"):
            # yt-dlp would take each line for the address of a fragment.
            message = "the site sent something else instead of a playlist"
            raise Failure(Reason.SITE_ERROR, message)
        if _DRM.search(manifest):
            raise Failure(Reason.DRM_PROTECTED, "this stream is DRM-protected")
        self._has_map = "#EXT-X-MAP" in manifest
        if not _ADVERTISEMENT.search(manifest):
            is_one_track = "none" in (info.get("vcodec"), info.get("acodec"))
            self.listed = _list_fragments(manifest, is_one_track=is_one_track)
        return bool(super().can_download(manifest, info, allow_unplayable_formats))

    def decrypter(
        self, info: dict[str, Any]
    ) -> Callable[[dict[str, Any], _Blocks | None], _Blocks | None]:
        """Return what decrypts a fragment, as yt-dlp's own does, but block by block."""

        @functools.cache
        def fetch_key(url: str) -> bytes:
            with self.ydl.urlopen(self._prepare_url(info, url)) as response:
                key: bytes = response.read(HEAD_SIZE)
            refuse_page_as_key(key)
            return key

        def decrypt(fragment: dict[str, Any], blocks: _Blocks | None) -> _Blocks | None:
            encryption = fragment.get("decrypt_info") or {}
            if blocks is None or encryption.get("METHOD") != "AES-128":
                return blocks
            key = encryption.get("KEY") or fetch_key(
                (info.get("hls_aes") or {}).get("uri") or encryption["URI"]
            )
            # The default IV is the number in the playlist. yt-dlp also counts the initial section
            # (EXT-X-MAP), which has no number.
            number = int(fragment["media_sequence"])
            if self._has_map and fragment["frag_index"] > 1:
                number -= 1
            return _decrypt_blocks(blocks, key, encryption.get("IV") or number.to_bytes(16))

        return decrypt


class DurableDashFD(DurableFragmentFD, DashSegmentsFD):  # type: ignore[misc]  # yt-dlp has no types
    """DASH.

    yt-dlp ignores the byte ranges (`mediaRange`) of a list of segments, and would append the whole
    file once for each of them.
    """

    def _get_fragments(
        self, fmt: dict[str, Any], ctx: dict[str, Any], extra_query: object
    ) -> Iterator[dict[str, Any]]:
        """Yield the fragments, each file once: the ranges of one file make up that file."""
        fragments = list(super()._get_fragments(fmt, ctx, extra_query))
        firsts = dict[str, dict[str, Any]]()
        said = fmt["fragments"] if isinstance(fmt["fragments"], list | tuple) else ()
        seconds = [0.0] * len(fragments)
        for fragment in fragments:
            first = firsts.setdefault(fragment["url"], fragment)
            each = said[fragment["index"]] if said else {}
            seconds[first["index"]] += float(each.get("duration") or 0)
        # Without a timeline, the last fragment is listed with the length of the others.
        is_exact = len(set(seconds) - {0.0}) > 1
        # An initial section in the middle begins another period.
        self.listed = [
            Listed(each, _slack(each) if is_exact else None, continues=seconds[number - 1] > 0)
            for number, each in enumerate(seconds)
        ]
        yield from firsts.values()


class _FragmentRepeated(Failure):
    """The site sent a fragment of the stream in place of another."""


def _list_fragments(manifest: str, *, is_one_track: bool) -> list[Listed]:
    """Return what an HLS playlist says of each fragment, in the order in which yt-dlp fetches them.

    `is_one_track`: pictures and sound are streams of their own.
    """
    fragments, seconds, continues = list[Listed](), 0.0, True
    lines = [line.strip() for line in manifest.splitlines()]
    durations = [found.groups() for line in lines if (found := _DURATION.match(line))]
    is_exact = all(fraction for _, fraction in durations)
    # Some list the same whole number for all, whatever the last one has.
    is_known = is_exact or len(set(durations)) > 1
    least = max(_SLACK_OF_ONE_TRACK * is_one_track, 0 if is_exact else _SLACK_OF_WHOLE_SECONDS)
    for line in lines:
        if found := _DURATION.match(line):
            seconds = float("".join(filter(None, found.groups())))
        elif line == "#EXT-X-DISCONTINUITY":
            continues = False
        elif line.startswith("#EXT-X-MAP"):
            fragments.append(Listed())
        elif line and not line.startswith("#"):
            slack = max(least, _slack(seconds)) if is_known else None
            fragments.append(Listed(seconds, slack, continues))
            seconds, continues = 0.0, True
    return fragments


def _slack(seconds: float) -> float:
    """Return how many seconds the last fragment may lack if its length is listed exactly."""
    return min(0.75, max(0.3, seconds * 0.3))


def _check_appended(stream: Path, start: int) -> FileType:
    """Check that the bytes from `start` on are a whole fragment of the same kind as the first one.

    Returns that kind. Raises Failure: SiteError if something else was sent, IncompleteDownload if
    its end is missing.
    """
    with stream.open("rb") as file:
        first = recognise(file.read(HEAD_SIZE))
        file.seek(start)
        kind = recognise(file.read(HEAD_SIZE))
        if kind.family is not Family.MEDIA or kind.demuxer != first.demuxer:
            message = f"a fragment of the stream is {kind.name} instead of media"
            raise Failure(Reason.SITE_ERROR, message)
        try:
            check_fragment(file, first, start, os.fstat(file.fileno()).st_size)
        except CutError as cut:
            message = f"a fragment of the stream is not whole: {cut}"
            raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from cut
    return kind


def _read_blocks(file: Path) -> _Blocks:
    with file.open("rb") as stream:
        while block := stream.read(CHUNK_SIZE):
            yield block


def _decrypt_blocks(blocks: _Blocks, key: bytes, iv: bytes) -> _Blocks:
    """Decrypt AES-CBC with padding at the end. Blocks are multiples of the cipher's block size.

    Raises Failure (IncompleteDownload) if the length, the padding or the key is wrong.
    """
    try:
        cipher, last = AES.new(key, AES.MODE_CBC, iv), b""
        for block in blocks:
            yield last
            last = cipher.decrypt(block)
        yield unpad(last, AES.block_size)
    except ValueError as error:
        message = "a fragment of the stream is cut short, or the site's key does not fit it"
        raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from error


def _truncate_to_checkpoint(stream: Path, checkpoint: Path) -> list[Fragment]:
    """Bring a partial stream back to the length in its checkpoint, or remove both.

    Returns the fragments that it has. So many are in its log, too.

    Downloaded fragments that were not appended are removed, too: after a power failure a file may
    have its full name and only some of its bytes.
    """
    size = 0
    with contextlib.suppress(OSError, ValueError):
        match parse_json(checkpoint.read_bytes()):
            case {
                "downloader": {
                    "current_fragment": {"index": int(index)},
                    "extra_state": {"size": int(written)},
                }
            } if index > 0:
                size = written
    log = log_path(stream)
    kept = [each for each in read_fragments(log) if each.end <= size]
    if stream.is_file() and 0 < size <= stream.stat().st_size and kept and kept[-1].end == size:
        os.truncate(stream, size)
        write_private(log, "".join(map(encode_fragment, kept)))
    else:
        kept = []
        for file in (stream, checkpoint, log):
            file.unlink(missing_ok=True)
    for fragment in stream.parent.glob(f"{glob.escape(stream.name)}-Frag*[0-9]"):
        fragment.unlink()
    return kept
