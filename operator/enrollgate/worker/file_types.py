"""Recognise what a file is by its content: the one table of the worker.

A URL's ending, a Content-Type and an extractor's guess are hints; servers get all of them wrong.
The table exists for two more reasons. FFmpeg must be given the container's format, because it
would also recognise playlists, and open what they name. And an error page must not pass as a
lecture.

Sources of the signatures: https://www.garykessler.net/library/file_sigs.html, RFC 9559 (Matroska),
ISO/IEC 14496-12 (MP4), ISO/IEC 13818-1 (MPEG-TS), RFC 3533 (Ogg), RFC 8216 (HLS).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

# Bytes at the start of a file that are enough to recognise it.
HEAD_SIZE = 4096


class Family(Enum):
    """What is checked in files of a type, and where they may appear."""

    MEDIA = "media"
    DOCUMENT = "a document"
    IMAGE = "an image"
    TEXT = "text"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FileType:
    """A kind of file."""

    name: str  # as messages call it
    family: Family
    extensions: tuple[str, ...] = ()  # the first one is written if the file has none of them
    demuxer: str = ""  # FFmpeg's name of the container's format; media only


def _media(name: str, demuxer: str, *extensions: str) -> FileType:
    return FileType(name, Family.MEDIA, extensions, demuxer)


def _document(name: str, *extensions: str) -> FileType:
    return FileType(name, Family.DOCUMENT, extensions)


def _image(name: str, *extensions: str) -> FileType:
    return FileType(name, Family.IMAGE, extensions)


def _text(name: str, *extensions: str) -> FileType:
    return FileType(name, Family.TEXT, extensions)


MP4 = _media("MP4", "mov", ".mp4", ".m4v", ".m4a", ".m4b", ".mov", ".3gp", ".3g2", ".f4v")
MATROSKA = _media("Matroska", "matroska", ".mkv", ".mka", ".mk3d")
WEBM = _media("WebM", "matroska", ".webm", ".weba")
MPEG_TS = _media("an MPEG transport stream", "mpegts", ".ts", ".mts", ".m2t")
MP3 = _media("MP3", "mp3", ".mp3", ".mpga")
AAC = _media("AAC", "aac", ".aac")
ZIP = _document("a ZIP archive", ".zip")
EMPTY = FileType("an empty file", Family.UNKNOWN)
UNKNOWN = FileType("an unknown kind of file", Family.UNKNOWN)
HTML = _text("a web page", ".html", ".htm", ".xhtml")
PLAYLIST = _text("a playlist", ".m3u8", ".m3u", ".mpd", ".ism", ".f4m")
TEXT = _text("plain text", ".txt", ".md", ".csv", ".tsv", ".log", ".nfo", ".description")

SUBTITLES = frozenset((".vtt", ".srt", ".ass", ".ssa", ".ttml", ".dfxp"))

# Compared with the first bytes, in this order.
_SIGNATURES: tuple[tuple[re.Pattern[bytes], FileType], ...] = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"....ftyp(heic|heix|hevc|mif1|msf1)", _image("an HEIF image", ".heic", ".heif")),
        (rb"....ftyp(avif|avis)", _image("an AVIF image", ".avif")),
        (rb"....(ftyp|moov|mdat|moof|styp|sidx|emsg|prft|free|skip|wide)", MP4),
        (rb"\x1a\x45\xdf\xa3.{0,60}\x42\x82.{1,8}webm", WEBM),
        (rb"\x1a\x45\xdf\xa3", MATROSKA),
        # A cluster, an index or padding: a fragment of a stream.
        (rb"\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b", WEBM),
        (rb"G.{187}(G.{187}|\Z)(G.{187}|\Z)", MPEG_TS),
        (rb".{4}G.{191}G.{191}G", _media("a Blu-ray stream", "mpegts", ".m2ts", ".mts")),
        (rb"\0\0\x01\xba", _media("an MPEG program stream", "mpeg", ".mpg", ".mpeg", ".vob")),
        (rb"RIFF....AVI ", _media("AVI", "avi", ".avi", ".divx")),
        (rb"(RIFF|RF64)....WAVE", _media("WAV", "wav", ".wav", ".wave")),
        (rb"RIFF....WEBP", _image("a WebP image", ".webp")),
        (rb"FLV\x01", _media("FLV", "flv", ".flv")),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _media("ASF", "asf", ".wmv", ".wma", ".asf")),
        (rb"OggS", _media("Ogg", "ogg", ".ogg", ".oga", ".ogv", ".opus", ".spx")),
        (rb"fLaC", _media("FLAC", "flac", ".flac")),
        (rb"FORM....AIF[FC]", _media("AIFF", "aiff", ".aiff", ".aif", ".aifc")),
        (rb"caff\0", _media("CAF", "caf", ".caf")),
        (rb"#!AMR", _media("AMR", "amr", ".amr")),
        (rb"\x0b\x77", _media("AC-3", "ac3", ".ac3", ".eac3")),
        (rb"\xff[\xf0\xf1\xf8\xf9]", AAC),
        (rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", MP3),
        (rb".{0,1016}?%PDF-\d", _document("a PDF", ".pdf", ".ai")),
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", ZIP),
        (rb"\x1f\x8b\x08", _document("a gzip archive", ".gz", ".tgz", ".svgz", ".dia", ".rds")),
        (rb"BZh[1-9]", _document("a bzip2 archive", ".bz2", ".tbz2", ".tbz")),
        (rb"\xfd7zXZ\0", _document("an xz archive", ".xz", ".txz")),
        (rb"\x28\xb5\x2f\xfd", _document("a zstd archive", ".zst", ".tzst")),
        (rb"7z\xbc\xaf\x27\x1c", _document("a 7-Zip archive", ".7z")),
        (rb"Rar!\x1a\x07", _document("a RAR archive", ".rar", ".cbr")),
        (rb".{257}ustar", _document("a tar archive", ".tar")),
        (
            rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            _document("an old Office document", ".doc", ".xls", ".ppt", ".msi", ".msg", ".vsd"),
        ),
        (rb"\{\\rtf", _document("an RTF document", ".rtf", ".doc")),
        (rb"%!PS", _document("PostScript", ".ps", ".eps", ".ai")),
        (rb"AT&TFORM", _document("a DjVu document", ".djvu", ".djv")),
        (rb"\x89PNG\r\n\x1a\n", _image("a PNG image", ".png", ".apng")),
        (rb"\xff\xd8\xff", _image("a JPEG image", ".jpg", ".jpeg", ".jpe", ".jfif")),
        (rb"GIF8[79]a", _image("a GIF image", ".gif")),
        (rb"BM....\0\0\0\0", _image("a BMP image", ".bmp")),
        (rb"II\*\0|MM\0\*", _image("a TIFF image", ".tif", ".tiff")),
        (rb"8BPS", _image("a Photoshop image", ".psd", ".psb")),
        (rb"\0\0\x01\0[\x01-\x20]\0", _image("an icon", ".ico")),
    )
)
# Compared with the first characters of a file that is text, without white space.
_TEXTS: tuple[tuple[re.Pattern[str], FileType], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kind)
    for pattern, kind in (
        (r"WEBVTT(\s|$)", _text("WebVTT subtitles", ".vtt")),
        (r"(\d+\s*\n)?\s*\d+:\d\d:\d\d[,.]\d+\s*-->", _text("SubRip subtitles", ".srt")),
        (r"\[script info\]", _text("SubStation subtitles", ".ass", ".ssa")),
        (r"#EXTM3U|ffconcat version|v=0\r?\n[os]=|\[playlist\]|<mpd\b|<asx\b", PLAYLIST),
        (r"(<\?xml.{0,200}?)?(<!--.{0,500}?-->\s*)*(<!doctype html|<html\b)", HTML),
        (r"(<\?xml.{0,2000}?)?<svg\b", _text("an SVG image", ".svg")),
        (r"(<\?xml.{0,500}?)?<(tt:)?tt\b", _text("TTML subtitles", ".ttml", ".dfxp")),
        (r"(<\?xml.{0,500}?)?(<!--.{0,500}?-->\s*)*<(mpd|smoothstreamingmedia)\b", PLAYLIST),
        (r"(<\?xml.{0,500}?)?<manifest\s[^>]{0,500}ns\.adobe\.com/f4m/", PLAYLIST),
        (r"<\?xml", _text("XML", ".xml", ".xhtml", ".opml", ".rss", ".plist", ".drawio")),
        (r"<(!--|[a-z][a-z0-9]*[\s>/])", HTML),
        (r"[{\[]", _text("JSON", ".json", ".ipynb", ".geojson", ".json3")),
    )
)
_ALL = (
    *(kind for _, kind in _SIGNATURES),
    *(kind for _, kind in _TEXTS),
    TEXT,
    _document("an Office document", ".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub"),
)


# Extensions of programs on servers: they say nothing about what the program sends.
_SCRIPTS = frozenset(
    (".php", ".phtml", ".asp", ".aspx", ".ashx", ".jsp", ".jspx", ".do", ".action", ".cgi", ".pl")
)
# Types that servers also send for errors, or for anything.
_VAGUE_TYPES = frozenset(
    (
        "application/octet-stream",
        "binary/octet-stream",
        "application/force-download",
        "application/x-download",
        "application/json",
        "application/problem+json",
        "application/xml",
        "application/xhtml+xml",
        "text/xml",
        "text/html",
        "text/plain",
    )
)
_TYPES = {"application/x-subrip": ".srt", "text/srt": ".srt", "text/markdown": ".md"}
# No name overrules them: nothing else is sent with these types.
_PLAYLIST_TYPES = {
    "application/dash+xml": ".mpd",
    "application/f4m+xml": ".f4m",
    "application/vnd.apple.mpegurl": ".m3u8",
    "application/vnd.ms-sstr+xml": ".ism",
    "application/x-mpegurl": ".m3u8",
    "audio/mpegurl": ".m3u8",
    "audio/x-mpegurl": ".m3u8",
}


def family_by_extension(extension: str) -> Family:
    """Return the family of files with this extension (with its dot), UNKNOWN if none is known."""
    wanted = extension.lower()
    return next((each.family for each in _ALL if wanted in each.extensions), Family.UNKNOWN)


def announced_extension(headers: Mapping[str, str], url: str) -> str:
    """Return the extension, with its dot, of the name that a site gives to a file; empty if none.

    The Content-Type of a playlist counts most, then the name in Content-Disposition, that in the
    URL, and other Content-Types. Types that servers also send for errors, or for anything, say
    nothing.
    """
    import mimetypes  # the process that checks files does not need them
    from email.message import Message

    message = Message()
    for name in ("Content-Disposition", "Content-Type"):
        message[name] = headers.get(name) or ""
    content_type = message.get_content_type()
    if content_type in _PLAYLIST_TYPES:
        return _PLAYLIST_TYPES[content_type]
    for name in (message.get_filename() or "", unquote(urlsplit(url).path)):
        extension = PurePosixPath(name.replace("\\", "/")).suffix.lower()
        if extension and extension not in _SCRIPTS and len(extension) <= 12:
            return extension
    if content_type in _VAGUE_TYPES:
        return ""
    return _TYPES.get(content_type) or mimetypes.guess_extension(content_type) or ""


def recognise(head: bytes) -> FileType:
    """Return what a file is. `head` is its first HEAD_SIZE bytes, or all of it."""
    if not head:
        return EMPTY
    start = 0
    if head.startswith(b"ID3") and len(head) >= 10:
        # A tag before the sound (https://id3.org/id3v2.4.0-structure, 3.1).
        for byte in head[6:10]:
            start = start << 7 | byte & 0x7F
        start = min(10 + start, len(head))
    for signature, kind in _SIGNATURES:
        if signature.match(head, start):
            return kind
    if start:  # An ID3 tag longer than the head comes before MP3 in nearly all files.
        return MP3
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
    else:
        # Old subtitles and notes are in the code page of their author; a character may be cut.
        text = head.decode("utf-8", errors="replace")
        unreadable = text.count("\ufffd")
        is_binary = re.search(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]", head)
        if is_binary or (unreadable > 4 and unreadable * 3 > len(text)):
            return UNKNOWN
    text = text.lstrip("\ufeff \t\r\n")
    return next((kind for pattern, kind in _TEXTS if pattern.match(text)), TEXT)


def recognise_file(file: Path) -> FileType:
    """Return what a file is. Raises OSError."""
    with file.open("rb") as stream:
        return recognise(stream.read(HEAD_SIZE))
