"""A directory as destination: one folder a course, sections below it, and a manifest that says what is there.

    <root>/<course title> [task-7]/
        manifest.json
        01 - <section>/
            01 - <lecture>.mp4

The manifest is the checkpoint: an item is there if the manifest has it and the file has that size and MD5. Files and manifest
appear by rename, so that a crash leaves either the old or the new, never a half.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Delivered, Item
from enrollgate.worker.names import safe_name

MANIFEST = "manifest.json"
_PART = ".enrollgate-part"
_CHUNK = 1 << 20


class Directory:
    """Implements `Destination` on a file system."""

    def __init__(self, root: Path, task_id: int) -> None:
        self._root = root
        self._task_id = task_id
        self._course: Path | None = None
        self._title = ""
        self._items: dict[str, dict[str, Any]] = {}

    def open(self, title: str) -> None:
        """Finds the course's folder by its task, or makes one. The title of a later try does not rename it."""
        suffix = f"[task-{self._task_id}]"
        with _as_failures():
            self._root.mkdir(parents=True, exist_ok=True)
            found = sorted(path for path in self._root.iterdir() if path.name.endswith(suffix) and path.is_dir())
            course = found[0] if found else self._root / f"{safe_name(title, 150)} {suffix}"
            course.mkdir(exist_ok=True)
        self._course, self._title = course, title
        self._items = _read_manifest(course / MANIFEST)

    def find(self, item: Item) -> Delivered | None:
        """The item if the manifest has it and its file is whole."""
        entry = self._items.get(item.item_id)
        if entry is None:
            return None
        try:
            path = self._inside(self._folder() / str(entry["file"]))
            if path.is_symlink() or path.stat().st_size != entry["bytes"] or _md5(path) != entry["md5"]:
                return None
        except (FileNotFoundError, NotADirectoryError, KeyError, Failure):
            return None
        except OSError as error:
            raise _disk_failure(error) from error
        return Delivered(item.item_id, int(entry["bytes"]), str(entry["md5"]))

    def deliver(self, item: Item, file: Path) -> Delivered:
        """Copies the file beside its place, then renames it there, then notes it in the manifest."""
        target = self._inside(self._place(item, file))
        part = target.with_name(target.name + _PART)
        with _as_failures():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest = _copy(file, part)
                part.replace(target)
                _sync(target.parent)
            finally:
                part.unlink(missing_ok=True)
            size = target.stat().st_size
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
        folder = self._folder()
        if item.section:
            number = f"{item.section_index:02d} - " if item.section_index else ""
            folder /= number + safe_name(item.section, 150)
        suffix = safe_name(file.suffix, 16) if len(file.suffix) > 1 else ""
        stem = f"{item.index:02d} - {safe_name(item.title, 150)}"
        place = folder / f"{stem}{'.' + suffix if suffix else ''}"
        taken = {entry["file"]: item_id for item_id, entry in self._items.items()}
        if taken.get(str(place.relative_to(self._folder())), item.item_id) != item.item_id:
            key = hashlib.sha256(item.item_id.encode()).hexdigest()[:8]
            place = place.with_name(f"{stem} ({key}){place.suffix}")
        return place

    def _inside(self, path: Path) -> Path:
        """The path, proven to be below the course's folder, symbolic links followed."""
        if not path.resolve().is_relative_to(self._folder().resolve()):
            raise Failure(Reason.UNSAFE_OUTPUT, f"{path.name} would lie outside the course's folder")
        return path

    def _write_manifest(self) -> None:
        content = {
            "task_id": self._task_id,
            "title": self._title,
            "items": [
                {"item": item_id, **entry}
                for item_id, entry in sorted(self._items.items(), key=lambda pair: int(pair[1].get("index", 0)))
            ],
        }
        path = self._folder() / MANIFEST
        part = path.with_name(MANIFEST + _PART)
        with part.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier try delivered. A damaged manifest is as good as none: everything is delivered again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(entry.pop("item")): entry for entry in content["items"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _copy(source: Path, target: Path) -> str:
    """Copies and syncs a file; gives its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copymode(source, target)
    return digest.hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


@contextmanager
def _as_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_failure(error) from error


def _disk_failure(error: OSError) -> Failure:
    from enrollgate.worker.pipeline import disk_failure

    return disk_failure(error)
