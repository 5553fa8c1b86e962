"""Parse JSON that comes from outside: another program, a server, or a damaged file.

`json.loads` accepts more than a reader expects: `NaN`, numbers that no column holds, single
surrogates that no UTF-8 has, and nesting so deep that a later `repr` or `dumps` fails. Here all of
that is one ValueError, or is repaired.
"""

import json
import math
from datetime import UTC, datetime

# Characters of a text, and levels of nesting, at most.
SIZE_LIMIT = 2**20
DEPTH_LIMIT = 32
# Integers below it fit the BIGINT of every database.
_INTEGER_LIMIT = 2**63


def parse_json(text: str | bytes, size_limit: int = SIZE_LIMIT) -> object:
    """Return the value in a JSON text, made of types that any JSON or database can store.

    Single surrogates are replaced by question marks; of two equal keys the last one counts. A text
    longer than `size_limit` is not looked at.

    Raises ValueError if the text is no JSON (RFC 8259), too large, nested too deep, or has a number
    that is not finite or needs more than 64 bits.
    """
    if len(text) > size_limit:
        raise ValueError("too large")
    try:
        return _checked(json.loads(text), DEPTH_LIMIT)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def parse_instant(text: str) -> datetime | None:
    """Return the instant of a text as of RFC 3339, in UTC; None if it is none.

    Without a time zone it is UTC. Years that a database or a calculation may refuse count as none.
    """
    try:
        instant = datetime.fromisoformat(text)
        instant = instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return instant if 1970 <= instant.year < 9000 else None


def _checked(value: object, depth: int) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case int() if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
            raise ValueError("a number of more than 64 bits")
        case float() if not math.isfinite(value):
            raise ValueError("a number that is not finite")
        case list() | dict() if depth == 0:
            raise ValueError("nested too deep")
        case list():
            return [_checked(each, depth - 1) for each in value]
        case dict():
            return {_checked(key, 0): _checked(each, depth - 1) for key, each in value.items()}
    return value
