"""The repository uses the standard terms of the glossary, and none of the words they replaced."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.repository import REPOSITORY, tracked_files

# A word is bounded by anything but letters, so that it is found in `snake_case`, too.
WORDS = (
    # names that have a standard term now
    "Patience|patience|PATIENCE",
    "StoryKind|Narrator",
    "[Ss]urvey",
    "[Gg]lance",
    "[Ss]ightings?",
    "departures",
    "let_go",
    "[Vv]erdicts?",
    "TurnRefused",
    "insist",
    "inspection",
    "Bell",
    "conclude",
    "[Bb]ury",
    "family_of",
    "_Trouble",
    "Unconfigured",
    "[Tt]ally",
    "[Ll]anes?",
    "LoginWanted|LOGIN_WANTED",
    "NOWHERE_TO_DELIVER",
    "GiveWay",
    "[Pp]arcels?",
    "[Pp]ieces?",
    "SILENCE",
    "hang_up|hang up|hung up",
    "WholeHls",
    "_return_to_the_note",
    "STUMBLES",
    "[Ss]trange(?:st|ly)?",
    "[Ss]trays?",
    "[Mm]ourn",
    "Workshop|workshop",
    "Mimic|mimic",
    "Prompter|prompter",
    "[Ww]ires?",
    "Hasty|hasty",
    "StatusWords|status_words|status words?",
    "obey_signals|passed_on|md5_of|NOT_BEGUN",
    # private or old words
    "[Nn]ews",
    "[Ww]ish(?:es|ed)?",
    "[Tt]old",
    "[Mm]end(?:s|ed|ing)?|[Uu]nmended",
    "lest|Lest",
    "anew",
    "in vain",
    "its fellows",
    "the bin|bins",
    "TRIES|max_tries|try_number",
    "try-out",
)
# Each is a regular expression for names that are also plain English, or library API.
PATTERNS = (
    r"\bclass Story\b|\bStory\(",
    r"\bdef tell\(self, |\b_tell\w*\(",  # a stream has `tell()`
    r"\b_moments\b",
    r"\bdef (?:sight|forget)\b|\.(?:sight|forget)\(",
    r"\bclass Turn\b|\bTurn\(",
    r"\bclass Operation\b|\bOperation\(|import Operation\b",
    r"\.(?:reading|writing)\(",
    r"\.(?:turned|progressed)\(",
    r"\bclass Ending\b|\bEnding\(",
    r"\beveryone\(",
    r"\bwithin\s*(?:=|: (?:float|int))",
    r"\bclass Several\b|\bSeveral\(",
    r"\bclass Growing\b|\bGrowing\(",
    r"^READ =",
    r"\b_Sending\b",
    r"\bdef tidy\b|\.tidy\(",
    r"\b_judge\b",
    r"\bclass Pace\b|\bPace\(",
    r"\bdef (?:place|apart)\((?!self)",
    r"\bdef (?!result_of|is_run_of)\w+_of\(",
    r"enrollgate_pass_seconds",
    r"""(?:result=|labels\()"given up""",
    r"""reason=(?:\\?")\\?"[},]""",
)
# The sentences that the glossary replaced.
PHRASES = (
    "leave that out there",
    "took a run that the other had created",
    "A lost race is news",
    "The word for:",
    "it is over, badly",
    "How often a run whose Job vanished",
    "of downloading all and then uploading all",
    "sight the new",
    "let go of the departed",
)

RULES = [
    *(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])" for word in WORDS),
    *PATTERNS,
    *map(re.escape, PHRASES),
]
NOT_OURS = ("CHANGELOG.md", "package-lock.json", "requirements/", "tests/unit/test_glossary.py")


@cache
def lines() -> list[tuple[str, int, str]]:
    """Return every line of our text files, with its file and its number."""
    found = []
    for path in tracked_files():
        name = path.relative_to(REPOSITORY).as_posix()
        if not any(part in name for part in NOT_OURS):
            found += [(name, number, line) for number, line in enumerate(_read(path), 1)]
    return found


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:  # an image
        return []


@pytest.mark.parametrize("rule", RULES)
def test_no_replaced_word_is_left(rule: str) -> None:
    pattern = re.compile(rule)
    found = [f"{name}:{number}: {line}" for name, number, line in lines() if pattern.search(line)]
    assert not found, "\n".join(found)
