"""Lines of text for a terminal of 80 columns: no word is cut, and a pipe gets the same text.

Pure functions.
"""

import textwrap
from datetime import datetime, timedelta

from enrollgate.common.redaction import printable, redact

# Columns of a line, at most, unless a single word is longer.
WIDTH = 80
# Columns of a label and the space after it.
_LABEL = 12


def paragraph(
    label: str, text: str, *, indent: int = 2, outside: bool = False, label_width: int = _LABEL
) -> list[str]:
    """Return the lines of a labelled text. Control characters are removed.

    With `outside`, the text comes from outside: addresses and credentials in it are removed, too.
    """
    begin = f"{'':{indent}}{label:{label_width - 1}} "
    shown = printable(redact(text, 4000) if outside else text) or "-"
    return textwrap.wrap(
        shown,
        width=WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


def duration(seconds: float) -> str:
    """Return a duration for people: `45 s`, `12 min 5 s`, `3 h 20 min` or `2 d 4 h`."""
    whole = max(0, round(seconds))
    for size, unit, smaller, smaller_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def since(instant: datetime, now: datetime) -> str:
    """Return how long ago an instant was: `12 min 5 s`."""
    return duration((now - instant) / timedelta(seconds=1))


def size(count: float) -> str:
    """Return a number of bytes for people: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def instant(at: datetime) -> str:
    """Return an instant (UTC) to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}"
