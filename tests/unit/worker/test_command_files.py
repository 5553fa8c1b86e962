"""What the files mean that a download command leaves: order, numbers, titles and problems."""

import json
import os
import socket
from pathlib import Path

import pytest

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.command_files import COURSE_FILE, OutputFile, list_output


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def listed(folder: Path) -> list[OutputFile]:
    return list_output(folder)[1]


def numbers(folder: Path) -> dict[str, int]:
    return {str(file.relative): file.number for file in listed(folder)}


def failing(folder: Path) -> dict[str, str]:
    return {str(file.relative): file.problem for file in listed(folder) if file.problem}


def test_files_come_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    write(tmp_path, "10.mp4", "2.mp4", "1.mp4", "Week 10/a.mp4", "Week 9/a.mp4", "lesson.mp4")
    write(tmp_path, "Lesson 2.mp4", "1.10 Glaze.mp4", "1.9 Fire.mp4", "007.mp4", "٣.mp4")
    assert list(numbers(tmp_path)) == [
        "1.mp4",
        "1.9 Fire.mp4",
        "1.10 Glaze.mp4",
        "2.mp4",
        "٣.mp4",
        "007.mp4",
        "10.mp4",
        "lesson.mp4",
        "Lesson 2.mp4",
        "Week 9/a.mp4",
        "Week 10/a.mp4",
    ]


def test_a_lecture_and_what_belongs_to_it_share_a_number(tmp_path: Path) -> None:
    write(tmp_path, "1.mp4", "1.2 Opening.pdf", "Clay.mp4", "Clay.srt", "Clay.en.vtt", "Clay.pdf")
    write(tmp_path, "Clay.zh-Hant.srt", "Clay.info.json", "Kiln.en.srt", "other/Clay.en.vtt")
    write(tmp_path, "Part.One.mp4", "Part.One.srt", "Part.mp4", "Part.1.jpg")
    assert numbers(tmp_path) == {
        "1.mp4": 1,
        "1.2 Opening.pdf": 2,
        "Clay.mp4": 3,
        "Clay.pdf": 3,
        "Clay.en.vtt": 3,
        "Clay.info.json": 3,
        "Clay.srt": 3,
        "Clay.zh-Hant.srt": 3,
        "Kiln.en.srt": 4,
        "other/Clay.en.vtt": 5,
        "Part.mp4": 6,
        "Part.1.jpg": 7,
        "Part.One.mp4": 8,
        "Part.One.srt": 8,
    }


@pytest.mark.parametrize(
    "name",
    [
        *("Clay.mp4.part", "Clay.f137.mp4.part-Frag12", "Clay.mp4.part-Frag3.part"),
        *("Clay.mp4.ytdl", "Clay.temp.mp4", "Clay.mp4.PARTIAL", "Clay.mp4.1f2e3d4c.partial"),
        *("Clay.mp4.aria2", "Clay.mp4.aria2__temp", "Unconfirmed 4711.crdownload", "Clay.tmp"),
        *("Clay.mp4.download/Clay.mp4", ".rsync-partial/Clay.mp4", ".~tmp~/Clay.mp4"),
        *(".Clay.mp4.a1B2c3", "Clay.mp4.6eF5b5da", "Clay.mp4.!ut", "Clay.mp4.!qB", "Clay.bc!"),
        *("Clay.mp4.opdownload", "Clay.mp4.filepart", "Clay.mp4.fdmdownload", "Clay_.gstmp"),
        *("Clay.mp4.jc!", "Clay.mp4.td", "Clay.mp4.dtapart", "Clay.mp4.downloading"),
        *("Clay.mp4.bc!", "Clay.mp4.JC!", "Clay-1a2b.mp4.dtapart"),
        *(".com.google.Chrome.a1B2c3", ".goutputstream-A1B2C3", ".azDownload-1-Clay.mp4"),
    ],
)
def test_a_partial_file_is_a_failed_item(tmp_path: Path, name: str) -> None:
    write(tmp_path, "Opening.mp4", name)
    assert set(failing(tmp_path)) == {name} and len(listed(tmp_path)) == 2


@pytest.mark.parametrize("suffix", [".aria2", ".st", ".part", ".ytdl", ".crdownload"])
def test_a_file_beside_its_partial_marker_is_not_delivered(tmp_path: Path, suffix: str) -> None:
    """aria2 and axel write into a file of the final name and length, with a marker beside it."""
    write(tmp_path, "Clay.mp4", f"Clay.mp4{suffix}")
    assert set(failing(tmp_path)) == {"Clay.mp4"} and len(listed(tmp_path)) == 1


@pytest.mark.parametrize(
    "name",
    ["report.2024.20240131", "Ch. 2.Part/Clay.mp4", "counter.st", "backup.12345678", "a.parts"],
)
def test_a_name_that_only_looks_partial_is_delivered(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert failing(tmp_path) == {} and len(listed(tmp_path)) == 1


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._Clay.mp4", "week/Thumbs.db", "Desktop.ini", "ehthumbs.db", ".localized"),
        *("__MACOSX/._Clay.mp4", "@eaDir/Clay.mp4/SYNO.jpg", ".nfs000000001", "~$notes.docx"),
        *(".fuse_hidden0001", "$RECYCLE.BIN/x", ".Trash-1000/files/x", ".~lock.notes.odt#"),
    ],
)
def test_files_of_operating_systems_are_ignored(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "Clay.mp4")
    assert list(numbers(tmp_path)) == ["Clay.mp4"]


def test_an_empty_file_is_a_failed_item(tmp_path: Path) -> None:
    (tmp_path / "Clay.mp4").touch()
    assert failing(tmp_path) == {"Clay.mp4": "the command left an empty file"}


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("."),
        os.mkfifo,
        make_socket,
    ],
    ids=["link", "broken link", "loop", "pipe", "socket"],
)
@pytest.mark.parametrize("name", ["Clay.mp4", COURSE_FILE, ".DS_Store", "Clay.part"])
def test_anything_but_a_regular_file_is_unsafe(
    tmp_path: Path, name: str, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "Opening.mp4")
    assert callable(make)
    make(tmp_path / name)
    with pytest.raises(Failure) as raised:
        list_output(tmp_path)
    assert raised.value.reason is Reason.UNSAFE_OUTPUT and name in raised.value.message


def test_an_output_folder_that_became_a_link_is_unsafe(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "Clay.mp4")
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure) as raised:
        list_output(tmp_path / "output")
    assert raised.value.reason is Reason.UNSAFE_OUTPUT


def test_a_hard_link_to_a_file_outside_is_unsafe(tmp_path: Path) -> None:
    output = tmp_path / "output"
    write(tmp_path, "secret.txt")
    write(output, "Clay.mp4")
    os.link(output / "Clay.mp4", output / "Clay again.mp4")
    assert len(listed(output)) == 2, "both names are in the folder"
    os.link(tmp_path / "secret.txt", output / "Opening.mp4")
    with pytest.raises(Failure) as raised:
        list_output(output)
    assert raised.value.reason is Reason.UNSAFE_OUTPUT and "hard link" in raised.value.message


def test_the_command_may_name_the_course_and_its_items(tmp_path: Path) -> None:
    write(tmp_path, "01/Clay.mp4", "01/Clay.en.srt", "01/Kiln.mp4", "01/Kiln.en.srt")
    course = {
        "title": "Ceramics",
        "titles": {
            "01/Clay.mp4": "Choosing the clay",
            "./01/Kiln.mp4": "Firing",
            "01/Kiln.en.srt": "Firing, in English",
        },
    }
    (tmp_path / COURSE_FILE).write_text(json.dumps(course))
    title, files = list_output(tmp_path)
    assert title == "Ceramics"
    assert [(str(file.relative), file.title, file.label, file.kind) for file in files] == [
        ("01/Clay.mp4", "Choosing the clay", "", "lecture"),
        ("01/Clay.en.srt", "Choosing the clay", "en", "subtitle"),
        ("01/Kiln.mp4", "Firing", "", "lecture"),
        ("01/Kiln.en.srt", "Firing, in English", "", "subtitle"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not JSON", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"title": 7}', "title: "),
        ('{"title": " "}', "title: "),
        ('{"name": "Ceramics"}', "name: "),
        ('{"titles": {"Clay.mp4": null}}', "titles.Clay.mp4: "),
        ('{"titles": {"Kiln.mp4": "x"}}', "'Kiln.mp4', and there is no such file"),
        ('{"titles": {"../Clay.mp4": "x"}}', "no such file"),
        ('{"titles": {"/etc/passwd": "x"}}', "no such file"),
        ('{"title": "' + "x" * 501 + '"}', "title: "),
        ("[" * 100_000, "Invalid JSON"),
        (" " * (2**20 + 1), "more than 1 MiB"),
    ],
)
def test_a_bad_course_file_is_a_failure_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, "Clay.mp4")
    (tmp_path / COURSE_FILE).write_text(text)
    with pytest.raises(Failure) as raised:
        list_output(tmp_path)
    assert raised.value.reason is Reason.COMMAND_FAILED
    assert COURSE_FILE in raised.value.message and said in raised.value.message


def test_a_course_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write(tmp_path, "Clay.mp4")
    (tmp_path / COURSE_FILE).write_text('{"title": "Ceramics"}', encoding="utf-8-sig")
    assert list_output(tmp_path)[0] == "Ceramics"


def test_a_name_that_is_not_utf_8_is_listed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_text("x")
    assert len(listed(tmp_path)) == 1


def test_a_path_that_is_too_long_is_a_failure(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=folder)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    with pytest.raises(Failure) as raised:
        list_output(tmp_path)
    assert raised.value.reason is Reason.UNSAFE_OUTPUT and len(raised.value.message) < 500
