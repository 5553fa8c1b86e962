"""The command downloader, with real child processes that behave and misbehave."""

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.launchers.harness import is_gone, wait_for
from tests.orders import make_order

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import Report
from enrollgate.worker.downloaders.command import Command
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.work import work

URL = "https://courses.example.com/course/1"


def order_for(tmp_path: Path, program: str) -> WorkOrder:
    return make_order(
        tmp_path,
        course_url=URL,
        downloader="command",
        download_command=(sys.executable, "-c", program, "{course_url}", "{output_dir}"),
        progress_path=None,
    )


HEAD = "import os, sys, pathlib\nurl, out = sys.argv[1:]\nout = pathlib.Path(out)\n"


def ignore_bytes(current: int, expected: int | None, arrived: int | None = None) -> None: ...


def run(tmp_path: Path, program: str) -> Report:
    return work(order_for(tmp_path, HEAD + program), stop=threading.Event())


def names(tmp_path: Path) -> list[str]:
    """Return what is at the destination, without the course's index."""
    root = tmp_path / "out"
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("course.json", "index.html")
    ]


def test_files_of_the_command_are_delivered_with_folders_as_sections(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        "(out / 'Basics').mkdir()\n"
        "(out / 'Basics' / 'Clay.txt').write_text(url)\n"
        "(out / 'Intro.txt').write_text('x')\n",
    )
    assert report.reason is None and report.items_delivered == 2
    assert names(tmp_path) == [
        "task 7 [task-7]/01 - Basics/01 - Clay.txt",
        "task 7 [task-7]/02 - Intro.txt",
        "task 7 [task-7]/manifest.json",
    ]
    assert (tmp_path / "out/task 7 [task-7]/01 - Basics/01 - Clay.txt").read_text() == URL


@pytest.mark.parametrize(
    "linked", [True, False], ids=["by a link", "by a copy, where there are no links"]
)
def test_a_file_is_linked_or_else_copied_into_the_items_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", refused)
    order = order_for(tmp_path, HEAD + "(out / 'Clay.txt').write_text('clay')\n")
    stop, folder = threading.Event(), order.scratch_dir / "items" / "1"
    for _ in range(2):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file.txt").write_text("an earlier attempt's")
        downloader = Command(order, stop)
        (item,) = downloader.open().items
        folder.mkdir(parents=True, exist_ok=True)
        file = downloader.fetch(item, folder, ignore_bytes).file
        assert file.read_text() == "clay"
        assert file.samefile(order.scratch_dir / "output" / "Clay.txt") is linked


def test_a_delivered_file_has_the_usual_mode_and_is_no_link(tmp_path: Path) -> None:
    program = "(out / 'Clay.txt').write_text('clay')\n(out / 'Clay.txt').chmod(0o4700)\n"
    assert run(tmp_path, program).reason is None
    (file,) = (tmp_path / "out").rglob("*.txt")
    usual = tmp_path / "usual"
    usual.touch()
    assert file.stat().st_mode == usual.stat().st_mode and file.stat().st_nlink == 1
    assert (tmp_path / "scratch" / "output" / "Clay.txt").read_text() == "clay", (
        "the command's own file stays"
    )


@pytest.mark.parametrize(
    "make", ["os.symlink('/etc/passwd', out / 'x.txt')", "os.mkfifo(out / 'x.txt')"]
)
def test_links_and_special_files_are_refused(tmp_path: Path, make: str) -> None:
    report = run(tmp_path, make)
    assert report.reason is Reason.UNSAFE_OUTPUT and names(tmp_path) == []


def test_exit_code_and_last_error_output_are_the_message(tmp_path: Path) -> None:
    report = run(tmp_path, "sys.exit('login of ada@example.com failed')")
    assert report.reason is Reason.COMMAND_FAILED
    assert report.message == "the download command ended with exit code 1: login of <e-mail> failed"


def test_a_command_that_leaves_nothing_is_an_empty_course(tmp_path: Path) -> None:
    assert run(tmp_path, "pass").reason is Reason.EMPTY_COURSE


def test_a_missing_command_is_a_configuration_error(tmp_path: Path) -> None:
    order = make_order(
        tmp_path,
        downloader="command",
        download_command=("/no/such/program", "{course_url}", "{output_dir}"),
    )
    report = work(order, stop=threading.Event())
    assert report.reason is Reason.CONFIGURATION_ERROR and "/no/such/program" in report.message
    assert "ENROLLGATE_DOWNLOAD_COMMAND" in report.remedy


def test_the_command_sees_none_of_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", "mysql://u:hunter2@h/d")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    run(tmp_path, "(out / 'env.txt').write_text(repr(dict(os.environ)))")
    seen = next((tmp_path / "out").rglob("*env.txt")).read_text()
    assert "hunter2" not in seen and "ENROLLGATE_DATABASE_URL" not in seen


def test_a_url_is_one_argument_whatever_it_contains(tmp_path: Path) -> None:
    url = "https://courses.example.com/;touch${IFS}x?a={output_dir}&b=$(id)"
    order = replace(order_for(tmp_path, HEAD + "(out / 'url.txt').write_text(url)"), course_url=url)
    assert work(order, stop=threading.Event()).reason is None
    assert next((tmp_path / "out").rglob("*url.txt")).read_text() == url


def test_stopping_ends_the_command_and_its_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, time, signal\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(out / 'pid').write_text(str(child.pid))\ntime.sleep(600)\n"
    )
    stop = threading.Event()
    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(work(order_for(tmp_path, HEAD + program), stop=stop))
    )
    thread.start()
    pid_file = tmp_path / "scratch" / "output" / "pid"
    grandchild = int(str(wait_for(lambda: pid_file.exists() and pid_file.read_text())))
    stop.set()
    thread.join()
    assert reports[0].reason is Reason.STOPPED
    # A killed process ends when the kernel next lets it run.
    assert wait_for(lambda: is_gone(grandchild)), f"{signal.SIGKILL!r} did not reach the grandchild"


def test_broken_files_are_reported_and_the_others_delivered(tmp_path: Path) -> None:
    program = (
        "for n in range(1, 8): (out / (str(n) + '.txt')).touch()\n"
        "(out / '8.txt.part').write_text('x')\n"
        "for n in range(9, 12): (out / (str(n) + '.txt')).write_text(str(n))\n"
        "(out / '11.en.srt').write_text('1\\n00:00:01,000 --> 00:00:02,000\\nx\\n')\n"
        "(out / '.DS_Store').write_text('x')\n"
    )
    report = run(tmp_path, program)
    assert (report.reason, report.items_delivered) == (Reason.INCOMPLETE_DOWNLOAD, 4), report
    assert [name.rpartition("/")[2] for name in names(tmp_path)] == [
        "09 - 9.txt",
        "10 - 10.txt",
        "11 - 11.en.srt",
        "11 - 11.txt",
        "manifest.json",
    ]
    assert {each.message for each in report.failed_items} & {
        "'1.txt': the command left an empty file"
    }


@pytest.mark.parametrize("name", ["output", "output/lectures"])
def test_a_folder_replaced_by_a_link_is_unsafe(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").write_text("secret")
    program = (
        f"folder = out.parent / {name!r}\n"
        "if folder.is_dir() and not folder.is_symlink(): folder.rmdir()\n"
        f"if not folder.is_symlink(): folder.symlink_to({str(tmp_path / 'elsewhere')!r})\n"
    )
    for _ in range(2):  # the second attempt finds the link when it starts
        assert run(tmp_path, program).reason is Reason.UNSAFE_OUTPUT
    assert names(tmp_path) == []


def test_a_link_to_the_cookies_is_not_delivered(tmp_path: Path) -> None:
    (tmp_path / "cookies").mkdir()
    line = "\t".join((".example.com", "TRUE", "/", "TRUE", "0", "session", "secret"))
    (tmp_path / "cookies" / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n{line}\n")
    program = "os.link(os.environ['ENROLLGATE_COOKIES_FILE'], out / 'Clay.txt')\n"
    order = order_for(tmp_path, HEAD + program)
    settings = order.settings.model_copy(update={"cookies_dir": tmp_path / "cookies"})
    report = work(replace(order, settings=settings), stop=threading.Event())
    assert report.reason is Reason.UNSAFE_OUTPUT and names(tmp_path) == []


def test_a_second_attempt_delivers_what_the_first_could_not(tmp_path: Path) -> None:
    """What the first attempt fetched are hard links to the command's files."""
    program = "(out / 'Clay.txt').write_text('clay')\n"
    (tmp_path / "out").write_text("no folder")
    assert run(tmp_path, program).reason is not None
    (tmp_path / "out").unlink()
    assert run(tmp_path, program).reason is None and len(names(tmp_path)) == 2


# A process that leaves its parent, its group and its session, then writes and ends.
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    for stream in (0, 1, 2): os.close(stream)
    import time
"""


def test_a_daemon_of_the_command_is_waited_for(tmp_path: Path) -> None:
    """It writes for longer than a silent process may live."""
    program = DAEMON + (
        "    for number in range(12):\n"
        "        time.sleep(0.25)\n"
        "        with (out / 'Clay.txt').open('a') as file: file.write(str(number % 10))\n"
        "    os._exit(0)\n"
    )
    order = order_for(tmp_path, HEAD + program)
    (item,) = Command(order, threading.Event(), leftover_timeout=1.5).open().items
    file = order.scratch_dir / "output" / "Clay.txt"
    assert item.title == "Clay" and file.read_text() == "012345678901"


def test_a_process_that_never_ends_is_named_and_killed(tmp_path: Path) -> None:
    program = DAEMON + "    (out / 'pid').write_text(str(os.getpid())); time.sleep(600)\n"
    order = order_for(tmp_path, HEAD + program)
    with pytest.raises(Failure) as raised:
        Command(order, threading.Event(), leftover_timeout=1).open()
    assert raised.value.reason is Reason.COMMAND_FAILED
    assert raised.value.message.partition("for 1 s: ")[2].startswith("python")
    assert is_gone(int((order.scratch_dir / "output" / "pid").read_text()))


@pytest.mark.parametrize("ends", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_what_a_failed_command_leaves_is_killed(tmp_path: Path, ends: str) -> None:
    program = DAEMON + (
        "    (out / 'pid').write_text(str(os.getpid())); time.sleep(600)\n"
        "while not (out / 'pid').exists(): pass\n"
        f"{ends}\n"
    )
    order = order_for(tmp_path, HEAD + program)
    with pytest.raises(Failure, match=r"exit code 3|signal 9"):
        Command(order, threading.Event()).open()
    assert is_gone(int((order.scratch_dir / "output" / "pid").read_text()))


def test_stopping_ends_a_daemon_that_ignores_sigterm(tmp_path: Path) -> None:
    program = DAEMON + (
        "    import signal; signal.signal(15, signal.SIG_IGN)\n"
        "    (out / 'pid').write_text(str(os.getpid())); time.sleep(600)\n"
    )
    order = order_for(tmp_path, HEAD + program)
    order = replace(order, settings=order.settings.model_copy(update={"stop_grace": 1}))
    stop = threading.Event()
    pid_file = order.scratch_dir / "output" / "pid"

    def stop_when_it_runs() -> None:
        wait_for(pid_file.exists)
        stop.set()

    threading.Thread(target=stop_when_it_runs).start()
    with pytest.raises(Failure) as raised:
        Command(order, stop).open()
    assert raised.value.reason is Reason.STOPPED and is_gone(int(pid_file.read_text()))


def test_a_killed_worker_takes_its_command_along(tmp_path: Path) -> None:
    """The kernel does it, so it also holds where no supervisor is."""
    script = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from tests.integration.worker.test_command import HEAD, order_for\n"
        "from enrollgate.worker.downloaders.command import Command\n"
        "program = HEAD + \"import time; (out / 'pid').write_text(str(os.getpid()))\\n\"\n"
        "Command(order_for(Path(sys.argv[1]), program + 'time.sleep(600)'), "
        "threading.Event()).open()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    worker = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    pid_file = tmp_path / "scratch" / "output" / "pid"
    try:
        pid = int(str(wait_for(lambda: pid_file.exists() and pid_file.read_text())))
    finally:
        worker.kill()
        worker.wait()
    assert wait_for(lambda: is_gone(pid))


def test_names_of_more_than_99_files_sort_as_the_course_does(tmp_path: Path) -> None:
    program = (
        "for n in range(1, 121):\n"
        "    folder = out / ('week ' + str(n))\n"
        "    folder.mkdir(exist_ok=True)\n"
        "    (folder / (str(n) + '.txt')).write_text('text ' + str(n))\n"
    )
    assert run(tmp_path, program).items_delivered == 120
    found = [name for name in names(tmp_path) if name.endswith(".txt")]
    numbers = [int(name.rpartition(" - ")[2].removesuffix(".txt")) for name in found]
    assert numbers == list(range(1, 121))
