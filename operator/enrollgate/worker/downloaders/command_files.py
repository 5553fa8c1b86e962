"""Decide what the files mean that a download command left in its output folder.

In comes the folder, after the command's last process has ended. Out come its files in the course's
order, each with its number and title, or with what is wrong with it. Nothing is opened but the
course file: a pipe or a device never blocks.
"""

import codecs
import os
import re
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import ItemKind

# In it, the command may name the course and its items. It is never delivered.
COURSE_FILE = ".enrollgate-course.json"
_MAX_COURSE_FILE = 2**20  # bytes
_MAX_FILES = 100_000

# Endings of files that a program is still writing, in lower case. docs/commands.md has the list by
# program.
_PARTIAL_SUFFIXES = (
    *(".part", ".ytdl", ".aria2", ".aria2__temp", ".tmp", ".temp", ".partial", ".crdownload"),
    *(".download", ".opdownload", ".fdmdownload", ".filepart", ".incomplete", ".unfinished"),
    *(".jc!", ".td", ".dtapart", ".downloading"),
    *(".!ut", ".!qb", ".bc!", ".gstmp", ".lftp-pget-status", ".st"),
)
# `.st` is axel's only if the file that it describes is there; else it may be a course's own file.
_ONLY_BESIDE_ITS_FILE = (".st",)
# Safari and others download into a folder of the file's name and such an ending.
_PARTIAL_FOLDERS = (".download", ".partial", ".incomplete", ".tmp")
_PARTIAL_NAME = re.compile(
    r".*\.part-frag\d+(\.part)?"  # yt-dlp: one fragment of a stream
    r"|.*\.temp\.\w+"  # yt-dlp: what ffmpeg writes
    r"|\..+\.\w+\.[a-z0-9]{6}"  # rsync: .Clay.mp4.a1B2c3
    r"|.+\.\w+\.(?=\d*[a-f])[0-9a-f]{8}"  # the AWS command line: Clay.mp4.6eF5b5da
    r"|\.(com\.google\.chrome|org\.chromium\.chromium)\.\w{6}"
    r"|\.(goutputstream-|azdownload-|getxfer\.).*"  # GNOME, azcopy, MEGA
    r"|\.rsync-partial|\.~tmp~",  # folders of rsync
    re.IGNORECASE,
)
# What operating systems, file managers and network disks leave in folders.
_IGNORED_NAME = re.compile(
    r"\._.*|\.ds_store|\.localized|\.apdisk|\.volumeicon\.icns|icon\r|__macosx|\.appledouble"
    r"|\.spotlight-v100|\.trashes|\.fseventsd|\.temporaryitems|\.documentrevisions-v100"
    r"|(eh)?thumbs\.db|desktop\.ini|\$recycle\.bin|system volume information"
    r"|\.directory|\.trash(-\d+)?|lost\+found|@eadir|\.nomedia|\.keep|\.gitkeep"
    r"|\.nfs[0-9a-f]+|\.fuse_hidden.*|~\$.*|\.~lock\..*#|\.enrollgate-course\.json",
    re.IGNORECASE,
)
# A file of these kinds belongs to the lecture whose name it begins with: Clay.en.srt to Clay.mp4.
_SUBTITLES = frozenset(
    {".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".ttml", ".dfxp", ".sbv", ".lrc", ".smi"}
    | {".srv1", ".srv2", ".srv3", ".json3"}
)
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SIDECARS = _SUBTITLES | _PICTURES | {".json", ".description", ".nfo"}

_Title = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]


class CourseFile(BaseModel):
    """What a command may say about its course. Unknown names are refused: they may be mistyped."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # The course's title.
    title: _Title | None = None
    # The titles of items, by the paths of their files in the output folder.
    titles: dict[str, _Title] = Field({}, max_length=_MAX_FILES)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to deliver, or one that cannot be delivered."""

    path: Path
    relative: PurePath
    number: int  # a lecture and its subtitles share it
    title: str
    label: str  # what tells it from other files of its lecture: a subtitle's language
    kind: ItemKind
    problem: str  # why it cannot be delivered; empty if it can


def list_output(output: Path) -> tuple[str | None, list[OutputFile]]:
    """Return the course's title, if the command gave one, and the files in the course's order.

    Raises Failure: UnsafeOutput for anything that is no regular file of the folder's own,
    CommandFailed if the course file cannot be understood.
    """
    found = _list_regular_files(output)
    course = read_course_file(output)
    given = {PurePath(name): title for name, title in course.titles.items()}
    files = {
        path: status
        for path, status in found.items()
        if not any(_IGNORED_NAME.fullmatch(part) for part in path.parts)
    }
    for path in given:
        if path not in files:
            message = f"{COURSE_FILE} names {str(path)[:200]!r}, and there is no such file"
            raise Failure(Reason.COMMAND_FAILED, message)
    problems, markers = _find_problems(output, files)
    lectures = {(path.parent, path.stem) for path in files if path.suffix.lower() not in _SIDECARS}
    stems = {path: _lecture_stem(path, lectures) for path in files if path not in markers}
    # Titles of lectures, for their subtitles as well.
    titles = {
        (path.parent, path.stem): given[path] for path in stems if given.get(path) is not None
    }

    def order(path: PurePath) -> tuple[object, ...]:
        """Sort as people count: 1, 2, 10. A lecture comes before its subtitles."""
        natural = [
            [
                (1, "", int(part)) if part.isdecimal() else (2, part.casefold(), 0)
                for part in re.split(r"(\d+)", name)
                if part
            ]
            for name in (*path.parts[:-1], stems[path])
        ]
        return natural, path.suffix.lower() in _SIDECARS, str(path)

    listed, numbers = list[OutputFile](), dict[tuple[PurePath, str], int]()
    for path in sorted(stems, key=order):
        lecture = (path.parent, stems[path])
        number = numbers.setdefault(lecture, len(numbers) + 1)
        title, label = titles.get(lecture, lecture[1]), path.stem[len(lecture[1]) + 1 :]
        if path in given:
            title, label = given[path], ""
        kind, problem = ItemKind.LECTURE, problems.get(path, "")
        if lecture in lectures and path.suffix.lower() in _SUBTITLES:
            kind = ItemKind.SUBTITLE
        elif lecture in lectures and path.suffix.lower() in _PICTURES:
            kind = ItemKind.THUMBNAIL
        listed.append(OutputFile(output / path, path, number, title, label, kind, problem))
    return course.title, listed


def _list_regular_files(output: Path) -> dict[PurePath, os.stat_result]:
    """Return the regular files below the folder, by their paths in it.

    Raises Failure (UnsafeOutput) for anything else, for a file that has another name outside the
    folder (it may be one that must not be given away), and if there are too many files, or some
    cannot be listed.
    """
    if not stat.S_ISDIR(output.lstat().st_mode):
        raise Failure(Reason.UNSAFE_OUTPUT, "the output folder was replaced by something else")
    files, folders = dict[PurePath, os.stat_result](), [output]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    status, path = entry.stat(follow_symlinks=False), Path(entry.path)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(path)
                        continue
                    name = path.relative_to(output)
                    if not stat.S_ISREG(status.st_mode):
                        message = f"{str(name)!r} is a symbolic link or a special file"
                        raise Failure(Reason.UNSAFE_OUTPUT, message)
                    files[PurePath(name)] = status
                    if len(files) + len(folders) > _MAX_FILES:
                        message = f"the command left more than {_MAX_FILES:,} files and folders"
                        raise Failure(Reason.UNSAFE_OUTPUT, message)
        except OSError as error:
            shown = str(folder.relative_to(output))[-200:]
            message = f"the folder {shown!r} in the output cannot be read: {error.strerror}"
            raise Failure(Reason.UNSAFE_OUTPUT, message) from error
    links = Counter((status.st_dev, status.st_ino) for status in files.values())
    for file, status in files.items():
        if status.st_nlink > links[status.st_dev, status.st_ino]:
            raise Failure(
                Reason.UNSAFE_OUTPUT,
                f"{str(file)!r} is a hard link to a file outside the output folder",
                remedy="Let the command copy files, or move them, instead of linking them.",
            )
    return files


def _find_problems(
    output: Path, files: dict[PurePath, os.stat_result]
) -> tuple[dict[PurePath, str], set[PurePath]]:
    """Return why files cannot be delivered, and the files that only describe such a file."""
    problems, markers = dict[PurePath, str](), set[PurePath]()
    for path, status in files.items():
        if not status.st_size:
            problems[path] = "the command left an empty file"
        elif not os.access(output / path, os.R_OK):
            problems[path] = "the command left a file that the worker may not read"
        is_partial = any(_PARTIAL_NAME.fullmatch(part) for part in path.parts) or any(
            part.lower().endswith(_PARTIAL_FOLDERS) for part in path.parts[:-1]
        )
        suffix = path.suffix.lower()
        whole = path.with_suffix("") if path.stem else path
        if suffix in _PARTIAL_SUFFIXES and whole in files:
            # aria2 and axel write into the final file. Of the others, two versions are here.
            markers.add(path)
            problems[whole] = f"the download of this file did not end: {path.name!r} is beside it"
        elif is_partial or (suffix in _PARTIAL_SUFFIXES and suffix not in _ONLY_BESIDE_ITS_FILE):
            problems[path] = "this is a partial file: its download did not end"
    return problems, markers


def read_course_file(output: Path) -> CourseFile:
    """Return what the command says about the course. Raises Failure (CommandFailed)."""
    path = output / COURSE_FILE
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_COURSE_FILE + 1)
    except FileNotFoundError:
        return CourseFile()
    except OSError as error:
        message = f"{COURSE_FILE} cannot be read: {error.strerror}"
        raise Failure(Reason.COMMAND_FAILED, message) from error
    if len(content) > _MAX_COURSE_FILE:
        raise Failure(Reason.COMMAND_FAILED, f"{COURSE_FILE} has more than 1 MiB")
    try:
        return CourseFile.model_validate_json(content.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        message = f"{COURSE_FILE} is wrong: {f'{where}: ' if where else ''}{first['msg']}"
        remedy = "Correct what the command writes to it: docs/commands.md has its format."
        raise Failure(Reason.COMMAND_FAILED, message, remedy=remedy) from error


def _lecture_stem(path: PurePath, lectures: Collection[tuple[PurePath, str]]) -> str:
    """Return the name of the lecture that a file belongs to, without its ending."""
    stem = path.stem
    while path.suffix.lower() in _SIDECARS and (path.parent, stem) not in lectures:
        stem, _, label = stem.rpartition(".")
        if not stem or " " in label or label.isdecimal():  # `1.2 Opening` is no part of `1`
            return path.stem
    return stem
