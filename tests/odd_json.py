"""Hypothesis strategies of odd data: what a broken or hostile program sends in place of JSON.

`VALUES` are JSON-like values, nested a few levels. `mutated` takes a real object and replaces,
removes or adds some of its parts. `TEXTS` are texts that may or may not be JSON.
"""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Numbers at the borders of what databases, floats and clocks can hold.
_NUMBERS = st.sampled_from(
    [
        *(0, -1, 1, True, False, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400),
        *(0.5, -0.0, 1e308, float("inf"), float("nan")),
    ]
)
_STRINGS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            *("", "\x00", "\ud800", "a\ud83d", "\U0001f600", "\n", "\x1b[2J", "\u202e", "True"),
            *("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-01", "x" * 70_000),
        ]
    ),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _NUMBERS | _STRINGS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
TEXTS: st.SearchStrategy[str] = st.one_of(
    VALUES.map(json.dumps),
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda data: data.decode(errors="replace")),
    st.builds(lambda mark, depth: mark * depth, st.sampled_from("[{"), st.integers(0, 5000)),
    st.builds(lambda digits: '{"message": ' + "9" * digits + "}", st.integers(0, 5000)),
)


@st.composite
def mutated(draw: st.DrawFn, real: Any) -> Any:
    """Return a copy of a real object with up to four changes anywhere in it."""
    changed = copy.deepcopy(real)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(changed))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "remove", "wrap"]))
        if what == "remove":
            del container[key]
        else:
            value = draw(VALUES)
            container[key] = value if what == "replace" else [container[key], value]
    return changed


def _places(value: Any) -> Any:
    """Yield each container in a value with each of its keys."""
    entries = list(enumerate(value)) if isinstance(value, list) else []
    if isinstance(value, dict):
        entries = list(value.items())
    for key, inner in entries:
        yield value, key
        yield from _places(inner)
