"""A directory as destination: one folder a course, sections below it, and a manifest that says what is there.

    <root>/<course title> [task-7]/
        manifest.json
        01 - <section>/
            01 - <lecture>.mp4

The manifest is the checkpoint: an item is there if the manifest has it and the file has that size and MD5. Files and manifest
appear by rename, so that a crash leaves either the old or the new, never a half.

The manifest also says which course it is of. A task whose course URL was corrected gets a folder of its own: what was delivered
of the wrong course stays where it is, and is never taken for the right one.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enrollgate.common.files import file_md5
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Delivered, Item, OnBytes
from enrollgate.worker.disk import destination_failure
from enrollgate.worker.names import course_name, course_suffix, item_name, section_name

MANIFEST = "manifest.json"
_PART = ".enrollgate-part"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Manifest:
    course: str = ""
    """The key of its course; empty if it does not say."""
    items: dict[str, dict[str, Any]] = field(default_factory=dict)


class Directory:
    """Implements `Destination` on a file system."""

    def __init__(self, root: Path, task_id: int, course_key: str, stop: threading.Event) -> None:
        self._root = root
        self._task_id = task_id
        self._key = course_key
        self._stop = stop
        self._course: Path | None = None
        self._title = ""
        self._items: dict[str, dict[str, Any]] = {}
        self._places: dict[str, str] = {}
        """Whose each file is, the ones being copied included: two items of one name never meet."""
        self._lock = threading.Lock()

    def open(self, title: str) -> None:
        """Finds the folder of the task's course, or makes one. The title of a later try does not rename it."""
        with _as_failures():
            self._root.mkdir(parents=True, exist_ok=True)
            course, manifest = self._choose(title)
            course.mkdir(exist_ok=True)
        self._course, self._title = course, title
        self._items = manifest.items if manifest.course == self._key else {}
        self._places = {str(entry.get("file")): item_id for item_id, entry in self._items.items()}
        if manifest.course != self._key:
            with _as_failures():
                self._write_manifest()

    def _choose(self, title: str) -> tuple[Path, _Manifest]:
        """This course's folder; else one that says of no course that it is its; else a new one."""
        suffix = course_suffix(self._task_id)
        found = sorted(
            path for path in self._root.iterdir() if path.name.endswith(suffix) and path.is_dir()
        )
        manifests = {path: _read_manifest(path / MANIFEST) for path in found}
        for key in (self._key, ""):
            for path, manifest in manifests.items():
                if manifest.course == key:
                    return path, manifest
        plain = self._root / course_name(title, self._task_id)
        taken = plain in manifests
        return self._root / course_name(
            title, self._task_id, self._key
        ) if taken else plain, _Manifest()

    def find(self, item: Item) -> Delivered | None:
        """The item if the manifest has it and its file is whole."""
        with self._lock:
            entry = self._items.get(item.item_id)
        if entry is None:
            return None
        try:
            path = self._inside(self._folder() / str(entry["file"]))
            if (
                path.is_symlink()
                or path.stat().st_size != entry["bytes"]
                or file_md5(path) != entry["md5"]
            ):
                return None
        except (FileNotFoundError, NotADirectoryError, KeyError, Failure):
            return None
        except OSError as error:
            raise destination_failure(error) from error
        return Delivered(item.item_id, int(entry["bytes"]), str(entry["md5"]))

    def deliver(self, item: Item, file: Path, on_bytes: OnBytes) -> Delivered:
        """Copies the file beside its place, then renames it there, then notes it in the manifest."""
        with self._lock:
            target = self._inside(self._place(item, file))
            self._places[str(target.relative_to(self._folder()))] = item.item_id
        part = target.with_name(target.name + _PART)
        with _as_failures():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest = _copy(file, part, on_bytes, self._stop)
                part.replace(target)
                _sync(target.parent)
            finally:
                part.unlink(missing_ok=True)
            size = target.stat().st_size
            with self._lock:
                self._items[item.item_id] = {
                    "index": item.index,
                    "title": item.title,
                    "file": str(target.relative_to(self._folder())),
                    "bytes": size,
                    "md5": digest,
                    "source_url": _without_query(item.source_url),
                }
                self._write_manifest()
        return Delivered(item.item_id, size, digest)

    @property
    def location(self) -> tuple[str, str]:
        """The folder's name and its file URL."""
        return self._folder().name, self._folder().as_uri()

    def _folder(self) -> Path:
        if self._course is None:
            raise AssertionError("the destination is used before it is opened")
        return self._course

    def _place(self, item: Item, file: Path) -> Path:
        folder = self._folder() / section_name(item)
        place = folder / item_name(item, file.suffix)
        if self._places.get(str(place.relative_to(self._folder())), item.item_id) != item.item_id:
            return folder / item_name(item, file.suffix, taken=True)
        return place

    def _inside(self, path: Path) -> Path:
        """The path, proven to be below the course's folder, symbolic links followed."""
        if not path.resolve().is_relative_to(self._folder().resolve()):
            raise Failure(
                Reason.UNSAFE_OUTPUT, f"{path.name} would lie outside the course's folder"
            )
        return path

    def _write_manifest(self) -> None:
        content = {
            "task_id": self._task_id,
            "course": self._key,
            "title": self._title,
            "items": [
                {"item": item_id, **entry}
                for item_id, entry in sorted(
                    self._items.items(), key=lambda pair: int(pair[1].get("index", 0))
                )
            ],
        }
        path = self._folder() / MANIFEST
        part = path.with_name(MANIFEST + _PART)
        with part.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)


def _read_manifest(path: Path) -> _Manifest:
    """What an earlier try delivered. A damaged manifest is as good as none: everything is delivered again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _Manifest(
            str(content["course"]), {str(entry.pop("item")): entry for entry in content["items"]}
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _Manifest()


def _copy(source: Path, target: Path, on_bytes: OnBytes, stop: threading.Event) -> str:
    """Copies and syncs a file; gives its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    copied = 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            copied += len(chunk)
            on_bytes(copied)
            if stop.is_set():
                raise Failure(
                    Reason.STOPPED, "asked to stop; this item is delivered by the next try"
                )
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return (
        f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if parts.netloc
        else parts.path
    )


@contextmanager
def _as_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise destination_failure(error) from error
