"""File names from titles: whatever a site calls its lectures, the name stays one harmless name in one folder."""

import re
import unicodedata

MAX_BYTES = 180
"""Of a name in UTF-8; most file systems allow 255, and an extension and a prefix come on top."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(title: str, limit: int = MAX_BYTES) -> str:
    """The title without separators, control characters, leading dots or a length that a file system refuses."""
    text = unicodedata.normalize("NFC", title)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    text = re.sub(r'[/\\:*?"<>|]', "_", text)
    text = re.sub(r"\s+", " ", text).strip(" .")
    text = text.encode()[:limit].decode(errors="ignore").strip(" .")
    if not text or not text.strip("_ ."):
        return "untitled"
    return f"_{text}" if _RESERVED.fullmatch(text) else text
