"""File names from titles: whatever a site calls its lectures, the name stays one harmless name in one folder,
the same at every destination."""

import re
import unicodedata

from enrollgate.worker.course import Item

MAX_BYTES = 180
"""Of a name in UTF-8; most file systems allow 255, and an extension and a prefix come on top."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(title: str, limit: int = MAX_BYTES) -> str:
    """The title without separators, control characters, leading dots or a length that a file system refuses."""
    text = unicodedata.normalize("NFC", title)
    text = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text
    )
    text = re.sub(r'[/\\:*?"<>|]', "_", text)
    text = re.sub(r"\s+", " ", text).strip(" .")
    text = text.encode()[:limit].decode(errors="ignore").strip(" .")
    if not text or not text.strip("_ ."):
        return "untitled"
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def course_name(title: str, task_id: int, key: str = "") -> str:
    """The course's folder. Its end is what a directory destination finds it by again. `key`: the course's, if another course
    of the task has the plain name.
    """
    return f"{safe_name(title, 150)}{f' ({key[:8]})' if key else ''} {course_suffix(task_id)}"


def course_suffix(task_id: int) -> str:
    """What the names of a task's folders end with."""
    return f"[task-{task_id}]"


def section_name(item: Item) -> str:
    """The folder of the item's section; empty if it has none."""
    if not item.section:
        return ""
    number = f"{item.section_index:02d} - " if item.section_index else ""
    return number + safe_name(item.section, 150)


def item_name(item: Item, suffix: str, *, taken: bool = False) -> str:
    """The item's file. `suffix` is that of the downloaded file; `taken`: another item of its section has the plain name."""
    key = f" ({item.key[:8]})" if taken else ""
    ending = f".{safe_name(suffix, 16)}" if len(suffix) > 1 else ""
    return f"{item.number} - {safe_name(item.title, 150)}{key}{ending}"
