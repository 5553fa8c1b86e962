"""Make file names from titles.

Whatever a site calls its lectures, a name is one safe name in one folder.

All destinations use the same names.
"""

import re
import unicodedata

import regex

from enrollgate.worker.course import Item, ItemKind

# Bytes of a name in UTF-8. Most file systems allow 255, and a number, a key and an extension are
# added.
MAX_BYTES = 180
_MAX_TITLE = 150
_RESERVED_BY_WINDOWS = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³])(\..*)?", re.IGNORECASE
)
# Invisible characters that change what one reads: joiners of Persian, of Indic scripts and of
# emoji, signs of Arabic that enclose numbers, and the letters of a flag such as Scotland's. All
# others of their kind go: among them are those that reverse the direction of what follows.
_KEPT = frozenset("\u200c\u200d\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd") | {
    chr(code) for code in (*range(0x600, 0x606), *range(0xE0020, 0xE0080))
}
# What `Item.number` puts before the title.
_NUMBER = re.compile(r"\d+(?:\.\d+)*(?= - )")
_AT_THE_ENDS = " .\u200c\u200d"


def safe_name(title: str, limit: int = MAX_BYTES) -> str:
    """Return the title without anything that a file system refuses, `limit` bytes long at most.

    Separators, control characters and leading dots are removed or replaced. What people read as
    one character is never cut in two.
    """
    text = ""
    for character in unicodedata.normalize("NFC", title):
        code = ord(character)
        is_no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
        is_invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        is_refused = is_no_character or (is_invisible and character not in _KEPT)
        text += " " if is_refused else character
    text = re.sub(r'[/\\:*?"<>|]', "_", text)
    text = re.sub(r"\s+", " ", text).strip(_AT_THE_ENDS)
    text = _cut(text, limit).strip(_AT_THE_ENDS)
    if not text or not text.strip(f"_{_AT_THE_ENDS}"):
        return "untitled"
    return f"_{text}"[:limit] if _RESERVED_BY_WINDOWS.fullmatch(text) else text


def _cut(text: str, limit: int) -> str:
    """Return the beginning that has `limit` bytes at most, and ends with a whole grapheme.

    See https://www.unicode.org/reports/tr29/.
    """
    if len(text.encode()) <= limit:
        return text
    kept, size = "", 0
    for grapheme in regex.findall(r"\X", text):
        size += len(grapheme.encode())
        if size > limit:
            break
        kept += grapheme
    # One letter with hundreds of accents is cut all the same.
    return kept or text.encode()[:limit].decode(errors="ignore")


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


def renumber(name: str, item: Item) -> str:
    """Return the name of a delivered file with the item's number of today.

    A course that grows to 100 items gets numbers of three digits, and an inserted item moves those
    after it. A name without a number was given by a person, and stays.
    """
    number = _NUMBER.match(name)
    return name if number is None else item.number + name[number.end() :]
