"""Lines of text for a terminal: no word is cut, and a pipe gets the same text."""

import shutil
import textwrap
from datetime import datetime, timedelta
from typing import TextIO

from enrollgate.common.redaction import printable, redact
from enrollgate.common.units import duration

# Columns of a line, at most, unless a single word is longer; and of a narrow terminal.
WIDTH = 80
_NARROWEST = 32
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
    columns = shutil.get_terminal_size((WIDTH, 24)).columns
    return textwrap.wrap(
        shown,
        width=max(_NARROWEST, min(WIDTH, columns)),
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


def fit(line: str, stream: TextIO, indent: int = 0) -> str:
    """Return a line broken between words, if the stream is a terminal; else as it is.

    Its continuations begin with `indent` spaces.
    """
    if not stream.isatty():
        return line
    return textwrap.fill(
        line,
        width=max(_NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def since(instant: datetime, now: datetime) -> str:
    """Return how long ago an instant was: `12 min 5 s`."""
    return duration((now - instant) / timedelta(seconds=1))


def instant(at: datetime) -> str:
    """Return an instant (UTC) to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}"
