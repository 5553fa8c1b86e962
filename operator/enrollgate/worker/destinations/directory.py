"""A directory as destination: one folder per course, with a folder per section and a manifest.

    <root>/<course title> [task-7]/
        manifest.json
        01 - <section>/
            01 - <lecture>.mp4

The manifest is the checkpoint: an item is there if the manifest lists it and its file has that size
and MD5. Files and manifest are renamed into place, so that a crash leaves the old one or the new
one, never a part.

The manifest also names its course. If a task's course URL is corrected, the new course gets a
folder of its own. The files of the wrong course stay, and never count as files of the right one.
"""

import contextlib
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from enrollgate.common.files import file_md5, write_atomically
from enrollgate.common.strict_json import parse_json
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import LeftOutItem
from enrollgate.worker.course import Delivered, Fetched, Item, OnBytes, Validators
from enrollgate.worker.disk import destination_failure
from enrollgate.worker.identity import public_url
from enrollgate.worker.names import (
    course_name,
    course_suffix,
    item_name,
    renumber,
    section_name,
)

MANIFEST = "manifest.json"
_PART = ".enrollgate-part"
_CHUNK = 1 << 20
# Bytes of a manifest, at most: more than 100,000 items.
_MANIFEST_LIMIT = 2**26


@dataclass(frozen=True, slots=True)
class _Manifest:
    course: str = ""  # the course's key; empty if the manifest does not say
    items: dict[str, dict[str, Any]] = field(default_factory=dict)


class Directory:
    """Implements `Destination` on a file system. `root` holds the folders of all courses."""

    def __init__(self, root: Path, task_id: int, course_key: str, stop: threading.Event) -> None:
        self._root = root
        self._task_id = task_id
        self._key = course_key
        self._stop = stop
        self._course: Path | None = None
        self._title = ""
        self._left_out = list[dict[str, str]]()
        self._items: dict[str, dict[str, Any]] = {}
        # The item of each path, also while it is copied: two items with one name never share a
        # file.
        self._owners: dict[str, str] = {}
        # The ids of the items that `find` and `deliver` have returned.
        self._counted: set[str] = set()
        # The ids that this attempt has looked for. The files of all others may be adopted.
        self._listed: set[str] = set()
        self._lock = threading.Lock()

    def open(self, title: str) -> None:
        """Find the folder of the task's course, or create it.

        A later attempt with another title does not rename it.
        """
        with _as_failures():
            self._root.mkdir(parents=True, exist_ok=True)
            course, manifest = self._choose_folder(title)
            course.mkdir(exist_ok=True)
        self._course, self._title = course, title
        self._items = manifest.items if manifest.course == self._key else {}
        self._owners = {str(entry.get("file")): item_id for item_id, entry in self._items.items()}
        if manifest.course != self._key:
            with _as_failures():
                self._write_manifest()

    def _choose_folder(self, title: str) -> tuple[Path, _Manifest]:
        """Return the folder of this course. Else one that names no course. Else a new one."""
        suffix = course_suffix(self._task_id)
        found = sorted(
            path for path in self._root.iterdir() if path.name.endswith(suffix) and path.is_dir()
        )
        manifests = {path: _read_manifest(path / MANIFEST) for path in found}
        for key in (self._key, ""):
            for path, manifest in manifests.items():
                if manifest.course == key:
                    return path, manifest
        new = self._root / course_name(title, self._task_id)
        if new in manifests:  # another course of the task has this name
            new = self._root / course_name(title, self._task_id, self._key)
        return new, _Manifest()

    def find(self, item: Item) -> Delivered | None:
        """Return the item if the manifest lists it and its file is unchanged.

        If the item's number has changed, the file is renamed.
        """
        with self._lock:
            self._listed.add(item.item_id)
            entry = self._items.get(item.item_id)
        if entry is None:
            return None
        found = self._verify(item.item_id, entry)
        if found is not None:
            found = self._renumber(item, found)
            with self._lock:
                self._counted.add(item.item_id)
        return found

    def _renumber(self, item: Item, found: Delivered) -> Delivered:
        """Give the item's file its number of today. Raises Failure."""
        source = self._folder() / found.path
        path = self._folder() / section_name(item) / renumber(source.name, item)
        with _as_failures(), self._lock:
            target = self._require_inside(path)
            place = self._relative(target)
            if target.exists() or self._owners.get(place, item.item_id) != item.item_id:
                return found  # it has that name already, or another item has
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            self._owners.pop(found.path, None)
            self._owners[place] = item.item_id
            self._items[item.item_id] |= {"file": place, "index": item.index}
            self._write_manifest()
            with contextlib.suppress(OSError):
                source.parent.rmdir()  # the folder of its old section, if it is empty now
        return replace(found, path=place)

    def _verify(self, item_id: str, entry: dict[str, Any]) -> Delivered | None:
        """Return what the manifest says of an item if its file is unchanged."""
        try:
            path = self._require_inside(self._folder() / str(entry["file"]))
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
        match entry.get("validators"):
            case {
                "length": int() | None as length,
                "etag": str() as etag,
                "last_modified": str() as last_modified,
            }:
                validators = Validators(length, etag, last_modified)
            case _:
                validators = Validators()  # none were recorded, or they are damaged
        size, md5, place = int(entry["bytes"]), str(entry["md5"]), str(entry["file"])
        return Delivered(item_id, size, md5, validators, place)

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        """Link or copy the file next to its place, rename it, then add it to the manifest."""
        file = fetched.file
        with _as_failures():
            source = self._adopt(item, fetched) or file
        with self._lock:
            folder = self._folder() / section_name(item)
            path = folder / item_name(item, fetched.suffix)
            if self._owners.get(self._relative(path), item.item_id) != item.item_id:
                path = folder / item_name(item, fetched.suffix, taken=True)
            target = self._require_inside(path)
            self._owners[self._relative(target)] = item.item_id
            previous = self._items.get(item.item_id, {}).get("file")
        with _as_failures():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source is file:
                digest = self._link_or_copy(fetched, target, on_bytes)
            else:
                if source != target:
                    source.replace(target)
                digest = file_md5(target)
            # The folder is flushed, too, so that a renamed file survives a power failure.
            descriptor = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            size = target.stat().st_size
            with self._lock:
                self._items[item.item_id] = {
                    "index": item.index,
                    "kind": item.kind,
                    "title": item.title,
                    "file": self._relative(target),
                    "bytes": size,
                    "md5": digest,
                    "source_url": public_url(item.source_url),
                    "validators": asdict(fetched.validators),
                }
                self._counted.add(item.item_id)
                self._write_manifest()
            if previous is not None and previous != self._relative(target):
                self._require_inside(self._folder() / str(previous)).unlink(missing_ok=True)
        place = self._relative(target)
        return Delivered(item.item_id, size, digest, fetched.validators, place)

    def _adopt(self, item: Item, fetched: Fetched) -> Path | None:
        """Return the file at the destination that has these bytes and belongs to no listed item.

        It is taken from its old item. Raises OSError.
        """
        size = fetched.file.stat().st_size
        with self._lock:
            mine = item.item_id
            self._listed.add(mine)
            others = {
                item_id: entry
                for item_id, entry in self._items.items()
                if entry.get("bytes") == size and (item_id == mine or item_id not in self._listed)
            }
        if not others:
            return None
        md5 = fetched.md5 or file_md5(fetched.file)
        for item_id, entry in sorted(others.items(), key=lambda pair: pair[0] != mine):
            if entry.get("md5") != md5 or self._verify(item_id, entry) is None:
                continue
            with self._lock:
                if self._items.get(item_id) is not entry or (
                    item_id != mine and item_id in self._listed
                ):
                    continue  # another thread was faster
                del self._items[item_id]
                self._owners.pop(str(entry["file"]), None)
            return self._folder() / str(entry["file"])
        return None

    def _link_or_copy(self, fetched: Fetched, target: Path, on_bytes: OnBytes) -> str:
        """Link or copy a file beside its place, flush it to the disk, and rename it.

        Returns its MD5. A file is copied that is on another file system, and one that has another
        name: a download command may go on writing to it.
        """
        file, part = fetched.file, target.with_name(target.name + _PART)
        part.unlink(missing_ok=True)  # perhaps a link to the very file, of a killed worker
        digest = hashlib.md5(usedforsecurity=False)
        copied = 0
        try:
            status = file.lstat()
            if fetched.md5 and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                with contextlib.suppress(OSError):
                    os.link(file, part)
            if part.exists():
                with part.open("rb") as linked:
                    os.fsync(linked.fileno())
                on_bytes(status.st_size)
                part.replace(target)
                return fetched.md5
            with file.open("rb") as reader, part.open("wb") as writer:
                while chunk := reader.read(_CHUNK):
                    digest.update(chunk)
                    writer.write(chunk)
                    copied += len(chunk)
                    on_bytes(copied)
                    if self._stop.is_set():
                        message = "asked to stop; the next attempt delivers this item"
                        raise Failure(Reason.STOPPED, message)
                writer.flush()
                os.fsync(writer.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folder()))

    def finish(self, left_out: Sequence[LeftOutItem] = ()) -> None:
        """Check that the files of all items are still there, with their sizes.

        What is left out is named in the manifest. Raises Failure.
        """
        named = [{"title": each.item, "why": each.why} for each in left_out]
        if named != self._left_out:
            self._left_out = named
            with _as_failures(), self._lock:
                self._write_manifest()
        for item_id in sorted(self._counted):
            entry = self._items.get(item_id)
            if entry is None:
                continue  # its second delivery failed, which is counted
            path = self._folder() / str(entry["file"])
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise Failure(
                    Reason.DESTINATION_UNAVAILABLE,
                    f"{path.name} was delivered, and was changed or removed during the run",
                    remedy="Nothing: the next attempt delivers it again.",
                )

    @property
    def location(self) -> tuple[str, str]:
        """Return the folder's name and its file URL."""
        return self._folder().name, self._folder().as_uri()

    def _folder(self) -> Path:
        if self._course is None:
            raise AssertionError("open() must be called first")
        return self._course

    def _require_inside(self, path: Path) -> Path:
        """Return the path if it is below the course's folder, with symbolic links followed.

        Raises Failure.
        """
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
            "left_out": self._left_out,
            "items": [
                {"item": item_id, **entry}
                for item_id, entry in sorted(self._items.items(), key=lambda pair: pair[1]["index"])
            ],
        }
        path = self._folder() / MANIFEST
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_atomically(path, text, path.with_name(MANIFEST + _PART))


def _read_manifest(path: Path) -> _Manifest:
    """Read what earlier attempts delivered.

    A damaged manifest counts as none: all items are delivered again. So is the item of a damaged
    entry.
    """
    try:
        content = parse_json(path.read_bytes(), _MANIFEST_LIMIT)
    except (OSError, ValueError):
        return _Manifest()
    match content:
        case {"course": str(course), "items": [*entries]}:
            pass
        case _:
            return _Manifest()
    items = dict[str, dict[str, Any]]()
    for entry in entries:
        match entry:
            case {
                "item": str(item_id),
                "index": int(),
                "file": str(file),
                "bytes": int(),
                "md5": str(),
            } if "\0" not in file:
                items[item_id] = {key: value for key, value in entry.items() if key != "item"}
    return _Manifest(course, items)


@contextmanager
def _as_failures() -> Iterator[None]:
    """Turn errors of the file system into Failures."""
    try:
        yield
    except OSError as error:
        raise destination_failure(error) from error
