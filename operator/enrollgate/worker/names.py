"""Make file names from titles.

Whatever a site calls its lectures, a name is one safe name in one folder.

All destinations use the same names.
"""

import re
import unicodedata

from enrollgate.worker.course import Item, ItemKind

# Bytes of a name in UTF-8. Most file systems allow 255, and a number, a key and an extension are
# added.
MAX_BYTES = 180
_MAX_TITLE = 150
_RESERVED_BY_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(title: str, limit: int = MAX_BYTES) -> str:
    """Return the title without anything that a file system refuses, `limit` bytes long at most.

    Separators, control characters and leading dots are removed or replaced.
    """
    text = unicodedata.normalize("NFC", title)
    text = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text
    )
    text = re.sub(r'[/\\:*?"<>|]', "_", text)
    text = re.sub(r"\s+", " ", text).strip(" .")
    text = text.encode()[:limit].decode(errors="ignore").strip(" .")
    if not text or not text.strip("_ ."):
        return "untitled"
    return f"_{text}" if _RESERVED_BY_WINDOWS.fullmatch(text) else text


def course_name(title: str, task_id: int, key: str = "") -> str:
    """Return the name of the course's folder.

    A directory destination finds the folder again by the end of it.

    `key` is the course's key, if another course of the task has the plain name.
    """
    unique = f" ({key[:8]})" if key else ""
    return f"{safe_name(title, _MAX_TITLE)}{unique} {course_suffix(task_id)}"


def course_suffix(task_id: int) -> str:
    """Return the end of the names of a task's folders."""
    return f"[task-{task_id}]"


def section_name(item: Item) -> str:
    """Return the name of the folder of the item's section; empty if it has none."""
    if not item.section:
        return ""
    number = f"{item.section_index:0{item.section_width}d} - " if item.section_index else ""
    return number + safe_name(item.section, _MAX_TITLE)


def item_name(item: Item, suffix: str, *, taken: bool = False) -> str:
    """Return the name of the item's file.

    `suffix` is the extension of the downloaded file. `taken`: another item of the section has the
    plain name.
    """
    extension = f".{safe_name(suffix, 16)}" if len(suffix) > 1 else ""
    title = safe_name(item.title, _MAX_TITLE)
    if item.kind is ItemKind.INDEX:
        return f"{title}{extension}"
    unique = f" ({item.key[:8]})" if taken else ""
    label = f".{safe_name(item.label, 24)}" if item.label else ""
    return f"{item.number} - {title}{unique}{label}{extension}"
