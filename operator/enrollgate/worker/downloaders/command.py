"""The command downloader: run the user's own program once, and deliver what it leaves behind.

What goes in: an argument list with placeholders. What comes out: each regular file in the output
folder is an item, and its folders are the section.

No shell is used. The program gets a process group of its own, which is killed if the run is
stopped, and a small environment without our settings. Symbolic links and special files are
refused. Unfinished files (`.part`, `.ytdl`, `.tmp`) are ignored. If the program fails, its exit
code and the end of its standard error are the failure's message.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from enrollgate.common.environment import inherited_environment
from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Fetched, Item, OnFetched
from enrollgate.worker.order import WorkOrder

# The program's share of the time until the worker would be killed. After it, the program is
# killed, and the worker has the rest of the time for its report.
STOP_SHARE = 0.7
# Endings of files that are not complete.
UNFINISHED_SUFFIXES = (".part", ".ytdl", ".tmp", ".temp", ".crdownload")
# Seconds between two looks at whether the program has ended.
_POLL_INTERVAL = 0.1
# Seconds that a child process of the program may keep its standard output open.
_OUTPUT_TIMEOUT = 5
# Bytes and lines of the end of standard error that go into the failure's message.
_ERROR_BYTES = 2000
_ERROR_LINES = 5


class Command:
    """Implement `Downloader` with a program. Its arguments name {course_url} and {output_dir}."""

    def __init__(self, order: WorkOrder, stop: threading.Event) -> None:
        self._order = order
        self._stop = stop
        self._output = order.scratch_dir / "output"
        self._files: dict[str, Path] = {}

    def open(self) -> Course:
        """Run the program to its end and list the files that it left.

        Raises Failure if it cannot be started, fails, is stopped or leaves a special file.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        log = self._order.scratch_dir / "command.stderr"
        with log.open("wb") as errors:
            process = self._start(errors)
            output = threading.Thread(target=_copy_output, args=(process.stdout,), daemon=True)
            output.start()
            try:
                self._wait(process)
            finally:
                output.join(timeout=_OUTPUT_TIMEOUT)
        code = process.returncode
        if code != 0:
            end = log.read_bytes()[-_ERROR_BYTES:].decode(errors="replace").strip()
            said = redact(" | ".join(end.splitlines()[-_ERROR_LINES:]), 600)
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            message = f"the download command ended with {how}: {said or 'no error output'}"
            raise Failure(Reason.COMMAND_FAILED, message)
        items = self._list_items()
        return Course(f"task {self._order.task_id}", iter(items), len(items))

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        """Put the item's file into its folder and return it.

        The program's own file stays: the program may continue with it in the next attempt.
        """
        source = self._files[item.item_id]
        target = folder / ("file" + (source.suffix if source.suffix.isascii() else ""))
        size = source.stat().st_size
        on_bytes(size, size)
        target.unlink(missing_ok=True)  # An earlier attempt may have left it.
        try:
            # No second copy is needed: the program has ended, and a delivery only reads.
            os.link(source, target)
        except OSError:  # It is on another file system, or on one without links.
            shutil.copyfile(source, target)
        return Fetched(target)

    def close(self) -> None:
        """Do nothing: the program has ended."""

    def _start(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the program. Raises Failure (ConfigurationError)."""
        values = {"{course_url}": self._order.course_url, "{output_dir}": str(self._output)}
        arguments = [_fill(each, values) for each in self._order.settings.download_command]
        environment = inherited_environment(os.environ)
        # With it, a process that outlives its worker can be recognised as ours.
        environment["ENROLLGATE_SCRATCH_DIR"] = str(self._order.scratch_dir)
        cookies = copy_cookies(self._order)
        if cookies is not None:
            environment["ENROLLGATE_COOKIES_FILE"] = str(cookies)
        try:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=self._output,
                process_group=0,
            )
        except OSError as error:
            program = arguments[0]
            message = f"the download command {program!r} cannot be started: {error.strerror}"
            remedy = "Write a program that the worker can run to ENROLLGATE_DOWNLOAD_COMMAND."
            raise Failure(Reason.CONFIGURATION_ERROR, message, remedy=remedy) from error

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the program's end, and kill what it leaves in its process group.

        Raises Failure (Stopped) if the run must stop: the program gets SIGTERM, then SIGKILL.
        """
        stopped = False
        while not stopped and process.poll() is None:
            stopped = self._stop.wait(_POLL_INTERVAL)
        if stopped:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self._order.settings.stop_grace * STOP_SHARE)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if stopped:
            raise Failure(Reason.STOPPED, "asked to stop; the download command was ended")

    def _list_items(self) -> list[Item]:
        """Return an item for each complete file. Raises Failure (UnsafeOutput)."""
        items = list[Item]()
        sections = dict[str, int]()
        for path in sorted(self._output.rglob("*")):
            mode = path.lstat().st_mode
            relative = path.relative_to(self._output)
            name = _escape(str(relative))
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                message = f"{name!r} is a symbolic link or a special file"
                raise Failure(Reason.UNSAFE_OUTPUT, message)
            if path.suffix.lower() in UNFINISHED_SUFFIXES or path.stat().st_size == 0:
                continue
            self._files[name] = path
            section = _escape(" - ".join(relative.parts[:-1]))
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            title, url = _escape(path.stem), self._order.course_url
            items.append(Item(name, len(items) + 1, title, section, number, url))
        return items


def _escape(name: str) -> str:
    """Return a file name as text that can be hashed, printed and stored.

    Bytes that are not UTF-8 become escapes such as `\\xe9`.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _copy_output(output: IO[bytes]) -> None:
    """Copy the program's standard output to the log, without secrets.

    Of a line that is rewritten with carriage returns, such as a progress bar, the last state is
    copied.
    """
    with output:
        for line in iter(lambda: output.readline(65536), b""):
            text = line.rstrip().rpartition(b"\r")[2].decode(errors="replace")
            sys.stderr.write(redact(text) + "\n")


def _fill(argument: str, values: dict[str, str]) -> str:
    """Replace placeholders by their values, once: a value may contain a placeholder itself."""
    placeholder, *rest = values
    parts = argument.split(placeholder)
    if rest:
        parts = [_fill(part, {name: values[name] for name in rest}) for part in parts]
    return values[placeholder].join(parts)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
