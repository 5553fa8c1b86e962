"""How far a run is, as its worker says in one line of its log, or in the progress file.

The line is MARKER and one JSON object of at most PROGRESS_LIMIT bytes together. It comes from
outside (a container wrote it), so `from_dict` checks every field and bounds it. Unknown fields are
ignored, so that a newer worker can be read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from enrollgate.common.redaction import printable, redact
from enrollgate.common.strict_json import parse_json
from enrollgate.domain.destination import folder_link

# What a progress line begins with.
MARKER = "ENROLLGATE PROGRESS "
# Bytes of a line, at most.
PROGRESS_LIMIT = 1024
# Characters of the current item's title, at most.
_TITLE_LIMIT = 100
# Of each count: the largest BIGINT. Of attempts and items: the largest INT.
_LARGEST, _LARGEST_COUNT = 2**63 - 1, 2**31 - 1


class MalformedProgress(ValueError):
    """What was found in place of a progress is not one."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far one attempt of a run is.

    `items_total` is None while the course's length is unknown. `bytes_done` are those of the items
    that are done, and of those that are on their way. `bytes_total` is what these take when they
    are complete; None: unknown. `percent` counts items, each by its bytes: half for the download,
    half for the upload.
    """

    attempt: int
    attempts: int
    items_done: int = 0
    items_total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: int = 0
    percent: int | None = None
    current_item: str = ""
    destination_url: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the progress as plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: object) -> "RunProgress":
        """Build a progress from plain data. Raises MalformedProgress."""
        if not isinstance(raw, dict):
            raise MalformedProgress("not an object")
        total = _count(raw, "items_total", _LARGEST_COUNT)
        percent = _count(raw, "percent", 100)
        return cls(
            attempt=_count(raw, "attempt", _LARGEST_COUNT) or 1,
            attempts=_count(raw, "attempts", _LARGEST_COUNT) or 1,
            items_done=_count(raw, "items_done", _LARGEST_COUNT) or 0,
            items_total=total,
            bytes_done=_count(raw, "bytes_done", _LARGEST) or 0,
            bytes_total=_count(raw, "bytes_total", _LARGEST),
            bytes_per_second=_count(raw, "bytes_per_second", _LARGEST) or 0,
            percent=percent,
            current_item=redact(printable(_text(raw, "current_item")), _TITLE_LIMIT),
            destination_url=folder_link(_text(raw, "destination_url")),
        )

    def encode(self) -> str:
        """Return the line, without its end. A title and a URL that are too long are cut or left."""
        shown = replace(
            self,
            current_item=redact(self.current_item, _TITLE_LIMIT),
            destination_url=folder_link(self.destination_url),
        )
        while len(line := MARKER + json.dumps(asdict(shown), separators=(",", ":"))) > (
            PROGRESS_LIMIT - 1
        ):
            half = shown.current_item[: len(shown.current_item) // 2]
            url = shown.destination_url if shown.current_item else ""
            shown = replace(shown, current_item=half, destination_url=url)
        return line


def find_last(log: str) -> RunProgress | None:
    """Return the progress of the last progress line in a part of a log; None if there is none.

    A line that cannot be understood is passed over.
    """
    for line in reversed(log.splitlines()):
        if line.startswith(MARKER) and len(line) < PROGRESS_LIMIT:
            try:
                return RunProgress.from_dict(parse_json(line[len(MARKER) :], PROGRESS_LIMIT))
            except ValueError:
                continue
    return None


def _count(raw: Mapping[str, object], field: str, largest: int) -> int | None:
    value = raw.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise MalformedProgress(f"{field} is not a count")
    return value


def _text(raw: Mapping[str, object], field: str) -> str:
    value = raw.get(field, "")
    if not isinstance(value, str):
        raise MalformedProgress(f"{field} is not a text")
    return value
