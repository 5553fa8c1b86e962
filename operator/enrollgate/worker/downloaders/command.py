"""The user's own command as downloader: it is started once, and what it leaves in its output folder is the course.

No shell; a process group of its own, killed when the run is stopped; a small environment without our settings. Symbolic links
and special files are refused, unfinished files (`.part`, `.ytdl`, `.tmp`) are left behind. Exit code and last words are the
failure's message.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from enrollgate.common.environment import passed_on
from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Item, OnFetched
from enrollgate.worker.order import WorkOrder

STOP_SHARE = 0.7
"""Of the time until the worker would be killed, what its command may use to end. Then it is killed, and the worker reports."""
UNFINISHED = (".part", ".ytdl", ".tmp", ".temp", ".crdownload")
"""Endings of files that are not complete."""
_LAST_WORDS = 2000


class Command:
    """Implements `Downloader` by an argv template with `{course_url}` and `{output_dir}`."""

    def __init__(self, order: WorkOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        self._output = order.scratch_dir / "output"
        self._files: dict[str, Path] = {}

    def open(self) -> Course:
        """Runs the command to its end and lists what it left."""
        self._output.mkdir(parents=True, exist_ok=True)
        self._run()
        items = list(self._collect())
        return Course(f"task {self._order.task_id}", iter(items), len(items))

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Path:
        """Links the item's file into its folder: the command's own stays, in case it goes on with it on the next try."""
        source = self._files[item.item_id]
        target = folder / ("file" + (source.suffix if source.suffix.isascii() else ""))
        size = source.stat().st_size
        on_bytes(size, size)
        target.unlink(missing_ok=True)  # of an earlier try
        try:
            os.link(
                source, target
            )  # no second copy: the command has ended, and a delivery only reads
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
        return target

    def close(self) -> None:
        """Nothing is held: the command has ended."""

    def _argv(self) -> list[str]:
        values = {"{course_url}": self._order.course_url, "{output_dir}": str(self._output)}
        return [_fill(part, values) for part in self._order.settings.download_command]

    def _run(self) -> None:
        environment = passed_on(os.environ)
        environment["ENROLLGATE_SCRATCH_DIR"] = str(
            self._order.scratch_dir
        )  # so that an orphan can be told as ours
        cookies = copy_cookies(self._order)
        if cookies is not None:
            environment["ENROLLGATE_COOKIES_FILE"] = str(cookies)
        log = self._order.scratch_dir / "command.stderr"
        argv = self._argv()
        with log.open("wb") as errors:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    cwd=self._output,
                    process_group=0,
                )
            except OSError as error:
                message = f"the download command {argv[0]!r} cannot be started: {error.strerror}"
                raise Failure(Reason.CONFIGURATION_ERROR, message) from error
            talk = threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True)
            talk.start()
            try:
                self._wait(process)
            finally:
                talk.join(timeout=5)
        if process.returncode != 0:
            words = _last_words(log)
            how = (
                f"exit code {process.returncode}"
                if process.returncode > 0
                else f"signal {-process.returncode}"
            )
            raise Failure(
                Reason.COMMAND_FAILED,
                f"the download command ended with {how}: {words or 'it said nothing'}",
            )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if self._stop.wait(0.1):
                _end(process, self._order.settings.stop_grace * STOP_SHARE)
                raise Failure(Reason.STOPPED, "asked to stop; the download command was ended")
        _signal_group(process.pid, signal.SIGKILL)  # what it may have left behind in its group

    def _collect(self) -> Iterator[Item]:
        sections = dict[str, int]()
        index = 0
        for path in sorted(self._output.rglob("*")):
            mode = path.lstat().st_mode
            name = _text(str(path.relative_to(self._output)))
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise Failure(
                    Reason.UNSAFE_OUTPUT, f"{name!r} is a symbolic link or a special file"
                )
            if path.suffix.lower() in UNFINISHED or path.stat().st_size == 0:
                continue
            index += 1
            self._files[name] = path
            section = _text(" - ".join(path.relative_to(self._output).parts[:-1]))
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            yield Item(name, index, _text(path.stem), section, number, self._order.course_url)


def _text(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become escapes, so that it can be hashed, printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _pass_on(output: IO[bytes]) -> None:
    """Copies the command's standard output to the log, without secrets; of a line that is rewritten (a bar), its last state."""
    with output:
        for line in iter(lambda: output.readline(65536), b""):
            text = line.rstrip().rpartition(b"\r")[2].decode(errors="replace")
            sys.stderr.write(redact(text) + "\n")


def _fill(part: str, values: dict[str, str]) -> str:
    """Replaces the placeholders once: a URL that itself contains one stays as it is."""
    first, *rest = values
    pieces = part.split(first)
    if rest:
        pieces = [_fill(piece, {name: values[name] for name in rest}) for piece in pieces]
    return values[first].join(pieces)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _last_words(log: Path) -> str:
    text = log.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
    return redact(" | ".join(text.splitlines()[-5:]), 600)
