"""Which subtitles and pictures of a lecture are wanted, and under which names."""

from pathlib import Path
from typing import Any

import pytest
from tests.media import make_media

from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.course import Course, Delivered, Item, ItemKind
from enrollgate.worker.course_index import build_index, render_article, render_index
from enrollgate.worker.downloaders.companions import TEXT, find_companions
from enrollgate.worker.downloaders.sound import keep_sound
from enrollgate.worker.run_stats import RunStats


def _track(language: str, extension: str = "vtt") -> dict[str, str]:
    return {"url": f"https://h.example/{language}.{extension}", "ext": extension}


def _labels(info: dict[str, Any], **settings: Any) -> list[str]:
    return [each.label for each in find_companions(info, WorkerSettings(**settings))]


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (("all",), ["en-US", "pt-BR", "zh-Hans"]),
        (("none",), []),
        (("en",), ["en-US"]),
        (("en-us",), ["en-US"]),
        (("en-gb",), []),
        (("ha",), []),
        (("pt", "zh-hans"), ["pt-BR", "zh-Hans"]),
    ],
)
def test_language_includes_its_regions_and_nothing_else(
    wanted: tuple[str, ...], labels: list[str]
) -> None:
    listed = {each: [_track(each)] for each in ("en_US", "pt-BR", "zh-Hans")}
    assert _labels({"subtitles": listed}, subtitles=wanted) == labels


@pytest.mark.parametrize(
    "languages", [("en_US", "en-US"), ("en-US", "en_US", "EN-us"), ("en-us", "EN_US")]
)
def test_languages_written_alike_get_names_of_their_own(languages: tuple[str, ...]) -> None:
    tracks = {each: [_track(each)] for each in languages}
    found = find_companions({"subtitles": tracks}, WorkerSettings())
    again = find_companions({"subtitles": dict(reversed(tracks.items()))}, WorkerSettings())
    names = {each.name for each in found}
    assert {each.label for each in found} == set(languages)
    assert len(names) == len(languages)
    assert names == {each.name for each in again}, "the order does not matter"


def test_what_a_machine_heard_comes_once() -> None:
    captions = {each: [_track(each)] for each in ("en", "en-orig", "vi")}
    info = {"automatic_captions": captions}
    assert _labels(info, automatic_subtitles=True, subtitles=("en",)) == ["en"]


def test_machine_made_subtitles_come_only_if_asked_for_and_needed() -> None:
    info = {
        "subtitles": {"en": [_track("en")]},
        "automatic_captions": {each: [_track(each)] for each in ("en", "vi", "de")},
    }
    assert _labels(info) == ["en"]
    assert _labels(info, automatic_subtitles=True, subtitles=("en", "vi")) == ["en", "vi"]


def test_translations_by_a_machine_are_left_out_of_all() -> None:
    captions = {each: [_track(each)] for each in ("en-orig", "en", "vi", "de")}
    info = {"subtitles": {}, "automatic_captions": captions}
    assert _labels(info, automatic_subtitles=True) == ["en"]


def test_best_format_is_chosen_and_recordings_of_a_chat_are_not_subtitles() -> None:
    info = {
        "subtitles": {
            "en": [_track("en", "json3"), _track("en", "srt"), _track("en", "vtt")],
            "live_chat": [{"url": "https://h.example/chat", "protocol": "youtube_live_chat"}],
            "vi": [{"data": "1\n00:00:00,000 --> 00:00:01,000\nxin chào\n", "ext": "srt"}],
        }
    }
    first, second = find_companions(info, WorkerSettings())
    assert first.entry["formats"][0]["ext"] == "vtt"
    assert (second.entry["_type"], second.entry["ext"]) == (TEXT, "srt")


@pytest.mark.parametrize("subtitles", [None, [], {"en": None}, {"en": [None, {}]}, "x"])
def test_a_malformed_list_of_subtitles_counts_as_none(subtitles: object) -> None:
    assert find_companions({"subtitles": subtitles}, WorkerSettings()) == []


def test_page_of_the_index_shows_hostile_titles_as_text() -> None:
    title = "<script>alert(1)</script> \"quoted\" & 'single'"
    item = Item("a", 1, title, title, 1, "https://h.example/a?token=secret", description=title)
    there = Delivered("a", 9, "0" * 32, path='01 - x/01 - 50% "off" #1?.mp4')
    stats = RunStats(delivered=1, present=[(item, there)])
    course = Course(title, iter(()), 1, title)
    content = build_index(course, "https://h.example/course?token=secret", stats)
    html = render_index(content)

    assert "<script" not in html and "secret" not in html + str(content)
    assert 'href="01%20-%20x/01%20-%2050%25%20%22off%22%20%231%3F.mp4"' in html


def test_index_lists_a_lecture_before_its_files_and_in_order() -> None:
    def item(index: int, kind: ItemKind, part: tuple[int, ...] = (), label: str = "") -> Item:
        return Item(f"{index}{part}{label}", index, "T", "", 0, "u", part, kind=kind, label=label)

    items = [
        item(2, ItemKind.LECTURE),
        item(1, ItemKind.ATTACHMENT, (1,)),
        item(1, ItemKind.SUBTITLE, (), "en"),
        item(1, ItemKind.LECTURE),
    ]
    present = [(each, Delivered(each.item_id, 1, "", path="f")) for each in items]
    content = build_index(Course("C", iter(()), 4), "https://h.example", RunStats(present=present))
    listed = [(each["number"], each["kind"]) for each in content["sections"][0]["items"]]
    assert listed == [
        ("01", "lecture"),
        ("01", "subtitle"),
        ("01.1", "attachment"),
        ("02", "lecture"),
    ]


def test_scripts_of_an_article_do_not_run() -> None:
    page = render_article("<b>T</b>", "<p>text</p><script>steal()</script>")
    policy = page.index("Content-Security-Policy")
    assert "default-src 'none'" in page and "script-src" not in page
    assert policy < page.index("<script>"), "the policy holds from the start"
    assert "&lt;b&gt;T&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("kind", "suffix"), [("mp4", ".m4a"), ("webm", ".ogg"), ("mkv", ".m4a"), ("mp3", ".mp3")]
)
def test_sound_gets_the_container_that_players_expect(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    file = tmp_path / f"lecture.{kind}"
    file.write_bytes(make_media(kind))
    sound = keep_sound(file, lambda *_arguments: None)
    assert sound.suffix == suffix
    assert [path.name for path in tmp_path.iterdir()] == [sound.name]
