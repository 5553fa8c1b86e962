"""A pattern is skipped only if it cannot match."""

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.downloaders.guarded import open_youtube_dl
from enrollgate.worker.downloaders.url_patterns import required_text
from enrollgate.worker.downloaders.yt_dlp_compat import gen_extractor_classes


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"https?://(?:www\.)?example\.com/a+b*c/(?P<id>\d+)", "example.com/a"),
        ("(?x)https?://  # (a comment [\n  example\\.com/ [^ #]+ z", "://example.com/"),
        (r"(?i)Example\.COM", "example.com"),
        (r"a{2,3}bc|de", ""),
        (r"(?:one|two)three", "three"),
        (r"(?:one)?four", "four"),
        (r"(?x: one # )\n)two", ""),
        (r"ab\\c\.?d", "ab\\c"),
        (r"[|)(]bc[]]d?", "bc"),
        (r"abc{1,}d\{e", "d{e"),
        (r".*", ""),
        ("", ""),
    ],
)
def test_required_text_is_what_every_match_contains(pattern: str, text: str) -> None:
    assert required_text(pattern) == text


SMALL = st.sampled_from(["ab", "c", ".", "\\.", "\\d", "[ab]", "x{2}", "e?", "f*", "g+", "(?=h)?"])
PATTERNS = st.recursive(
    SMALL,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        inner.map("(?:{})".format),
        inner.map("({})?".format),
        inner.map("(?:{}){{0,2}}".format),
    ),
    max_leaves=8,
)


@given(PATTERNS, st.data())
def test_required_text_is_in_each_text_that_matches(pattern: str, data: st.DataObject) -> None:
    matching = data.draw(st.from_regex(pattern, fullmatch=True))
    assert required_text(pattern) in matching.lower()


def test_no_url_of_yt_dlps_own_tests_is_skipped() -> None:
    """Extractors know the addresses that they have as examples. Each twelfth is asked: all of them
    take long to import.
    """
    checked = 0
    for extractor in gen_extractor_classes()[::12]:
        real = extractor.real_class
        patterns = real._VALID_URL or ()
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            text, compiled = required_text(pattern), re.compile(pattern)
            for example in real.get_testcases(include_onlymatching=True):
                if compiled.match(example["url"]):
                    assert text in example["url"].lower(), (real.__name__, example["url"])
                    checked += 1
    assert checked > 300


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://www.udemy.com/python/learn/v4/t/lecture/1", "Udemy"),
        ("https://www.udemy.com/course/python/", "UdemyCourse"),
        ("https://www.youtube.com/watch?v=BaW_jenozKc", "Youtube"),
        ("https://www.youtube.com/playlist?list=PLwiyx1dc3P2JR9N8gQaQN_BCvlSlap7re", "YoutubeTab"),
        ("https://vimeo.com/76979871", "Vimeo"),
        ("http://127.0.0.1:1/feed", "Generic"),
    ],
)
def test_course_is_given_to_the_extractor_of_its_site(url: str, name: str) -> None:
    ydl = open_youtube_dl({}, (), threading.Event())
    assert next(key for key, each in ydl._ies.items() if each.suitable(url)) == name
