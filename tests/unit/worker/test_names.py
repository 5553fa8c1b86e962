"""Names of files: valid everywhere, short enough, and still what people read."""

import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.course import Item
from enrollgate.worker.names import MAX_BYTES, item_name, safe_name, section_name

FAMILY = "👨\u200d👩\u200d👧"
# Letters, joiners, marks, emoji, flags, controls and what file systems refuse.
ALPHABET = st.one_of(
    st.characters(),
    st.sampled_from(
        [
            *("\u200c", "\u200d", "\u202e", "\u2066", "\ufeff", "\x00", "\n", "/", "\\", ":"),
            *(
                ".",
                " ",
                FAMILY,
                "🇩🇪",
                "👍🏽",
                "किक्षि",
                "می\u200cخواهم",
                "e\u0301",
                "\ud800",
                "\uffff",
            ),
        ]
    ),
)
TITLES = st.lists(ALPHABET, max_size=120).map("".join)


@given(TITLES, st.integers(16, MAX_BYTES))
def test_a_name_is_valid_on_every_file_system(title: str, limit: int) -> None:
    name = safe_name(title, limit)
    assert 0 < len(name.encode()) <= limit, "surrogates cannot be encoded at all"
    assert not set(name) & set('/\\:*?"<>|')
    assert name == name.strip(" .\u200c\u200d")
    hidden = {c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert not hidden and not set(name) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069")
    assert safe_name(name, limit) == name, "a safe name stays as it is"


@given(st.lists(st.sampled_from([FAMILY, "🇩🇪", "👍🏽", "क्षि", "e\u0323\u0302"]), min_size=20))
def test_a_long_name_ends_with_a_whole_grapheme(graphemes: list[str]) -> None:
    title = unicodedata.normalize("NFC", "".join(graphemes))
    name = safe_name(title, 100)
    whole = regex.findall(r"\X", title)
    assert regex.findall(r"\X", name) == whole[: len(regex.findall(r"\X", name))]


@pytest.mark.parametrize(
    "title",
    ["می\u200cخواهم", "क्\u200dष", FAMILY, "🏴\U000e0067\U000e0062\U000e007f", "\u0600\u0661"],
)
def test_joiners_that_change_the_reading_stay(title: str) -> None:
    assert safe_name(title) == title


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("a\u202egnp.exe", "a gnp.exe"),
        ("\u200d\u200c", "untitled"),
        ("COM¹.txt", "_COM¹.txt"),
        ("conin$", "_conin$"),
        ("a" + "\u0301" * 500, None),
    ],
)
def test_what_deceives_or_is_reserved_goes(title: str, name: str | None) -> None:
    found = safe_name(title)
    assert found == name if name is not None else 0 < len(found.encode()) <= MAX_BYTES


def test_numbers_are_padded_to_the_length_of_the_course() -> None:
    item = Item("x", 7, "T", "S", 4, "u", part=(2,), widths=(3, 2), section_width=3)
    assert item_name(item, ".mp4") == "007.02 - T.mp4"
    assert section_name(item) == "004 - S"
    plain = Item("x", 7, "T", "S", 4, "u", part=(2,))
    assert item_name(plain, ".mp4") == "07.2 - T.mp4" and section_name(plain) == "04 - S"
