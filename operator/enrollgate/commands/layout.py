"""Lines of text for a terminal of 80 columns: no word is cut, and a pipe gets the same text.

Pure functions.
"""

import textwrap
from datetime import datetime, timedelta

from enrollgate.common.redaction import printable, redact
from enrollgate.common.units import duration

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


def since(instant: datetime, now: datetime) -> str:
    """Return how long ago an instant was: `12 min 5 s`."""
    return duration((now - instant) / timedelta(seconds=1))


def instant(at: datetime) -> str:
    """Return an instant (UTC) to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}"
