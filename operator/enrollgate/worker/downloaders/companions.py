"""Find what belongs to a lecture beside its video: subtitles and a preview picture.

In comes what an extractor of yt-dlp says of a lecture. Out come entries that yt-dlp can download as
it downloads a lecture, each with what names it in every attempt. Pure: nothing is requested here.

yt-dlp could write subtitles itself, but beside the video and with it: a lecture that is already
delivered would hide a subtitle that is missing, and a broken subtitle would be skipped silently.
"""

from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.course import ItemKind
from enrollgate.worker.downloaders.entries import Entry
from enrollgate.worker.identity import digest, unsigned

# Formats of subtitles, the best first. Any other comes after them.
_SUBTITLE_FORMATS = ("vtt", "srt", "ass", "ttml")
# How yt-dlp fetches the subtitles that are files. Others are recordings of a chat.
_PROTOCOLS = (None, "http", "https", "m3u8", "m3u8_native")
# The end of YouTube's name for the language in which a machine heard a video. It translates that
# into every other language.
_ORIGINAL = "-orig"
# The language of a track that names none (https://www.rfc-editor.org/rfc/rfc5646#section-4.1).
_UNKNOWN = "und"
# The type of an entry whose content is known: it has a `text` and an extension.
TEXT = "text"


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that belongs to a lecture."""

    kind: ItemKind
    name: str  # the same in every attempt, and different for each companion of a lecture
    label: str  # for the file's name
    entry: Entry  # what yt-dlp downloads, or an entry of the type TEXT


def has_companions(settings: WorkerSettings) -> bool:
    """Return whether a lecture's own page must be read, because it may list wanted companions."""
    return settings.subtitles != ("none",) or settings.thumbnails


def find_companions(info: Entry, settings: WorkerSettings) -> list[Companion]:
    """Return the wanted companions of a lecture. `info` is what its extractor returned.

    Languages that are written differently, such as `en_US` and `en-US`, stay apart.
    """
    authored = _tracks(info.get("subtitles"))
    wanted = {
        language: track
        for language, track in authored.items()
        if _is_wanted(language, settings.subtitles)
    }
    if settings.automatic_subtitles:
        automatic = _tracks(info.get("automatic_captions"))
        languages = [
            each
            for each in automatic
            if _is_wanted(each, settings.subtitles) and f"{each}{_ORIGINAL}" not in automatic
        ]
        if settings.subtitles == ("all",):
            heard = [each for each in languages if each.endswith(_ORIGINAL)]
            languages = heard or languages
        known = {_tag(each) for each in authored}
        wanted |= {
            each.removesuffix(_ORIGINAL): automatic[each]
            for each in languages
            if _tag(each.removesuffix(_ORIGINAL)) not in known
        }
    spellings = Counter(_tag(each) for each in wanted)
    found = [
        _subtitle(info, language, track, number, is_alone=spellings[_tag(language)] == 1)
        for language, tracks in wanted.items()
        for number, track in enumerate(tracks, 0 if len(tracks) == 1 else 1)
    ]
    picture = _thumbnail(info) if settings.thumbnails else None
    return found if picture is None else [*found, picture]


def _tracks(listed: object) -> dict[str, list[Entry]]:
    """Return the tracks of each language in its best format. What is no list of tracks is none.

    Several formats are one text. Several tracks of one format are several texts, such as subtitles
    and those for deaf people.
    """
    best = dict[str, list[Entry]]()
    for language, tracks in listed.items() if isinstance(listed, dict) else ():
        usable = [
            track
            for track in tracks or ()
            if isinstance(track, dict)
            and (track.get("url") or track.get("data"))
            and track.get("protocol") in _PROTOCOLS
        ]
        ranks = [_rank(track) for track in usable]
        same = [track for track, rank in zip(usable, ranks, strict=True) if rank == min(ranks)]
        if same:
            named = {_text_name(track): track for track in reversed(same)}
            best[str(language or _UNKNOWN)] = list(reversed(named.values()))
    return best


def _text_name(track: Entry) -> str:
    """Return what tells a track from others of its language, in every attempt."""
    return digest(str(track.get("data") or unsigned(str(track["url"]))))


def _rank(track: Entry) -> tuple[int, bool]:
    """Return the place of a track's format. A file comes before a list of segments."""
    extension = _subtitle_extension(track)
    known = extension in _SUBTITLE_FORMATS
    rank = _SUBTITLE_FORMATS.index(extension) if known else len(_SUBTITLE_FORMATS)
    return rank, bool(track.get("protocol")) and str(track["protocol"]).startswith("m3u8")


def _subtitle_extension(track: Entry) -> str:
    """Return the track's format. A list of segments has that of its segments: WebVTT."""
    if str(track.get("protocol")).startswith("m3u8"):
        return "vtt"
    path = urlsplit(str(track.get("url") or "")).path
    return str(track.get("ext") or path.rpartition(".")[2].lower() or "vtt")


def _is_wanted(language: str, wanted: tuple[str, ...]) -> bool:
    """Return whether the language, or a part of it (`en` of `en-US`), is among those wanted."""
    if wanted in (("all",), ("none",)):
        return wanted == ("all",)
    tag = f"{_tag(language.removesuffix(_ORIGINAL))}-"
    return any(tag.startswith(f"{each}-") for each in wanted)


def _tag(language: str) -> str:
    return language.replace("_", "-").lower()


def _subtitle(
    info: Entry, language: str, track: Entry, number: int, *, is_alone: bool
) -> Companion:
    """Return a subtitle. `number` counts the tracks of its language, if there are several.

    If another language has the same tag, its own spelling names it.
    """
    label = language.replace("_", "-") if is_alone else language
    name, extension = _tag(language) if is_alone else language, _subtitle_extension(track)
    if number:
        name = f"{name}:{_text_name(track)}"
    if number > 1:
        label = f"{label}-{number}"
    if track.get("data"):
        entry: Entry = {"_type": TEXT, "text": str(track["data"]), "ext": extension}
    else:
        entry = _media(info, track, label, extension)
    return Companion(ItemKind.SUBTITLE, f"subtitle:{name}", label, entry)


def _thumbnail(info: Entry) -> Companion | None:
    """Return the largest preview picture. yt-dlp lists the best one last."""
    listed = [each for each in info.get("thumbnails") or () if isinstance(each, dict)]
    urls = [each["url"] for each in listed if each.get("url")] or [info.get("thumbnail")]
    if not urls[-1]:
        return None
    extension = urlsplit(str(urls[-1])).path.rpartition(".")[2].lower()
    known = extension if extension in ("jpg", "jpeg", "png", "webp", "gif") else "jpg"
    entry = _media(info, {"url": urls[-1]}, "thumbnail", known)
    return Companion(ItemKind.THUMBNAIL, "thumbnail", "", entry)


def _media(info: Entry, track: Entry, name: str, extension: str) -> Entry:
    """Return an entry for yt-dlp with one format: this file."""
    media = {
        "url": track["url"],
        "ext": extension,
        "format_id": name,
        "protocol": track.get("protocol"),
        "http_headers": track.get("http_headers") or info.get("http_headers"),
    }
    kept = {key: value for key, value in media.items() if value is not None}
    file_name = f"{name}.{extension}"
    return {"id": file_name, "title": name, "file_name": file_name, "formats": [kept]}
