"""The command downloader: run the user's own program once, and deliver what it leaves behind.

What goes in: an argument list with placeholders. What comes out: each regular file in the output
folder is an item, and its folders are the section (`command_files`).

No shell is used. The program runs below a process of ours (`subreaper`) that ends only when all
processes of the program have ended, whatever session they are in. So its files do not change any
more when they are listed. If the run is stopped, all of them are killed. The program gets a small
environment without our settings. If it fails, its exit code and the end of its standard error are
the failure's message.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from enrollgate.common.environment import inherited_environment
from enrollgate.common.files import file_md5
from enrollgate.common.lines import iter_lines
from enrollgate.common.processes import command_name, descendants, kill_descendants, send_signal
from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.cookies import copy_cookies
from enrollgate.worker.course import Course, Delivered, Fetched, Item, OnFetched
from enrollgate.worker.downloaders import subreaper
from enrollgate.worker.downloaders.command_files import OutputFile, list_output
from enrollgate.worker.order import WorkOrder

# The program's share of the time until the worker would be killed. After it, the program is
# killed, and the worker has the rest of the time for its report.
STOP_SHARE = 0.7
# Seconds that processes may go on after the program has ended, without writing to its folder.
LEFTOVER_TIMEOUT = 60.0
# Seconds between two looks at whether the program has ended, and at whether its folder grows.
_POLL_INTERVAL = 0.1
_GROWTH_INTERVAL = 2.0
# Seconds until the last output is read, once all processes have ended or were killed.
_OUTPUT_TIMEOUT = 5
_BLOCK_SIZE = 1 << 16
# Bytes of one line, and of all lines, that are copied to the log from each of the two outputs.
_LINE_LIMIT = 4096
_LOG_LIMIT = 2**20
# Bytes and lines of the end of standard error that go into the failure's message.
_TAIL_SIZE = 4096
_TAIL_LINES = 5
# Characters of it that are shown: the last ones.
_TAIL_SHOWN = 600
# A word without these is no end of a URL with a query, and of no e-mail address.
_OF_ADDRESS = re.compile(r"[=&?@%:/]")
_TOO_LONG = "(a line that is too long to show)"


class Command:
    """Implement `Downloader` with a program. Its arguments name {course_url} and {output_dir}.

    `leftover_timeout`: seconds that its processes may outlive the program without writing.
    """

    def __init__(
        self,
        order: WorkOrder,
        stop: threading.Event,
        *,
        leftover_timeout: float = LEFTOVER_TIMEOUT,
    ) -> None:
        self._order = order
        self._stop = stop
        self._leftover_timeout = leftover_timeout
        self._output = order.scratch_dir / "output"
        self._files: dict[str, OutputFile] = {}

    def open(self) -> Course:
        """Run the program to its end and list the files that it left.

        Raises Failure if it cannot be started, fails, is stopped, leaves processes that do not
        end, or leaves something else than regular files.
        """
        if self._output.is_symlink():
            raise Failure(Reason.UNSAFE_OUTPUT, "the output folder was replaced by a link")
        self._output.mkdir(parents=True, exist_ok=True)
        # What an earlier attempt fetched are links to these files, which would count as links to
        # files outside.
        shutil.rmtree(self._order.scratch_dir / "items", ignore_errors=True)
        status, status_writer = os.pipe()
        try:
            process, arguments = self._start(status_writer)
        finally:
            os.close(status_writer)
        outputs = [_Output(stream) for stream in (process.stdout, process.stderr) if stream]
        with os.fdopen(status, "rb", buffering=0) as reader:
            try:
                result = self._wait(process, reader)
            finally:
                if process.poll() is None:
                    kill_descendants(process.pid)
                    process.kill()
                    process.wait()
                for output in outputs:
                    output.thread.join(timeout=_OUTPUT_TIMEOUT)
        kind, _, number = result.partition(" ")
        if kind == "error":
            message = f"the download command {arguments[0]!r} cannot be started: "
            remedy = "Write a program that the worker can run to ENROLLGATE_DOWNLOAD_COMMAND."
            message += os.strerror(int(number))
            raise Failure(Reason.CONFIGURATION_ERROR, message, remedy=remedy)
        code = int(number or -signal.SIGKILL)
        if code != 0:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            said = outputs[1].tail or "no error output"
            message = f"the download command ended with {how}: {said}"
            raise Failure(Reason.COMMAND_FAILED, message)
        return self._build_course()

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        """Put the item's file into its folder and return it.

        The program's own file stays: the program may continue with it in the next attempt.
        """
        output = self._files[item.item_id]
        if output.problem:
            raise Failure(Reason.INCOMPLETE_DOWNLOAD, f"{item.item_id[:200]!r}: {output.problem}")
        source = output.path
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

    def is_current(self, item: Item, delivered: Delivered) -> bool:
        """Return whether the program's file has the bytes that were delivered."""
        output = self._files[item.item_id]
        if output.problem:
            return False
        return (
            output.path.stat().st_size == delivered.size and file_md5(output.path) == delivered.md5
        )

    def discard(self, item: Item) -> None:
        """Remove the program's own file, so that the program downloads it again."""
        self._files[item.item_id].path.unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: the program has ended."""

    def _start(self, status: int) -> tuple[subprocess.Popen[bytes], list[str]]:
        """Start the process that runs the program. Return it and the program's arguments."""
        values = {"{course_url}": self._order.course_url, "{output_dir}": str(self._output)}
        arguments = [_fill(each, values) for each in self._order.settings.download_command]
        environment = inherited_environment(os.environ)
        # With it, a process that outlives its worker can be recognised as ours.
        environment["ENROLLGATE_SCRATCH_DIR"] = str(self._order.scratch_dir)
        cookies = copy_cookies(self._order)
        if cookies is not None:
            environment["ENROLLGATE_COOKIES_FILE"] = str(cookies)
        ours = [sys.executable, "-I", "-S", subreaper.__file__, str(status), str(os.getpid())]
        process = subprocess.Popen(
            [*ours, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd=self._output,
            process_group=0,
            pass_fds=[status],
        )
        return process, arguments

    def _wait(self, process: subprocess.Popen[bytes], status: IO[bytes]) -> str:
        """Wait until no process of the program is left. Return what the subreaper wrote.

        Raises Failure (Stopped) if the run must stop: all get SIGTERM first. Raises Failure
        (CommandFailed) if the program has ended, but processes of it do not end.
        """
        os.set_blocking(status.fileno(), False)
        result, next_look, quiet_since, growth = "", 0.0, 0.0, (0, 0)
        pause = min(_GROWTH_INTERVAL, self._leftover_timeout)
        while process.poll() is None:
            if self._stop.wait(_POLL_INTERVAL):
                for each in descendants(process.pid):
                    send_signal(each, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=self._order.settings.stop_grace * STOP_SHARE)
                raise Failure(Reason.STOPPED, "asked to stop; the download command was ended")
            now = time.monotonic()
            if not result:
                result = (status.read(64) or b"").decode()
                next_look, quiet_since = now + pause, now
            elif not result.endswith(" 0"):
                return result  # It failed: what it left behind is killed.
            elif now >= next_look:
                before, growth = growth, _measure(self._output)
                next_look, quiet_since = now + pause, quiet_since if growth == before else now
            if result and now - quiet_since >= self._leftover_timeout:
                names = sorted({command_name(each) for each in descendants(process.pid)})
                raise Failure(
                    Reason.COMMAND_FAILED,
                    f"the download command ended, but it left processes that do not end and wrote "
                    f"nothing for {self._leftover_timeout:g} s: {', '.join(names)[:200]}",
                    remedy="Let the command wait for every process that it starts, or end it.",
                )
        return result or (status.read(64) or b"").decode()

    def _build_course(self) -> Course:
        """Return the course that the files in the output folder are."""
        title, files = list_output(self._output)
        items = list[Item]()
        folders = {file.relative.parts[:-1] for file in files} - {()}
        width = max(2, len(str(max((file.number for file in files), default=0))))
        sections = dict[str, int]()
        for file in files:
            name = _escape(str(file.relative))
            self._files[name] = file
            section = _escape(" - ".join(file.relative.parts[:-1]))
            number = sections.setdefault(section, len(sections) + 1) if section else 0
            url = self._order.course_url
            item = Item(name, file.number, _escape(file.title), section, number, url)
            items.append(
                replace(
                    item,
                    widths=(width,),
                    section_width=max(2, len(str(len(folders)))),
                    kind=file.kind,
                    label=_escape(file.label),
                )
            )
        # Broken files come last: so many failures in a row would end the run.
        items.sort(key=lambda item: bool(self._files[item.item_id].problem))
        return Course(title or f"task {self._order.task_id}", iter(items), len(items))


class _Output:
    """Reads one output of the program in a thread, in bounded memory, and copies it to the log.

    It never stops reading before the end: else the program would wait for it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._end = b""
        self._size = 0
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    @property
    def tail(self) -> str:
        """Return the last lines, redacted and in one line. Complete once the thread has ended."""
        text = self._end.decode(errors="replace").rstrip()
        if self._size > len(self._end):  # the first word may be the end of an address
            rests = (text.partition(space)[2] for space in "\n\r\t ")
            is_secret = _OF_ADDRESS.search(text) is not None
            text = next(filter(None, rests), _TOO_LONG if is_secret else text)
        lines = [line for line in iter_lines([text.encode()], _LINE_LIMIT) if line.strip()]
        said = redact(" | ".join(line.strip() for line in lines[-_TAIL_LINES:]), 4 * _TAIL_SIZE)
        return said if len(said) <= _TAIL_SHOWN else f"...{said[3 - _TAIL_SHOWN :]}"

    def _copy(self) -> None:
        """Copy lines to the log up to its limit, and read the rest."""

        def read() -> Iterator[bytes]:
            with self._stream:
                while block := self._stream.read(_BLOCK_SIZE):
                    self._size += len(block)
                    self._end = (self._end + block)[-_TAIL_SIZE:]
                    yield block

        blocks, copied = read(), 0
        for line in iter_lines(blocks, _LINE_LIMIT):
            text = redact(line)
            copied += len(text) + 1
            if copied > _LOG_LIMIT:
                text = f"the command's output is not copied beyond {_LOG_LIMIT} bytes"
            with contextlib.suppress(OSError):  # A full disk costs the line, not the run.
                sys.stderr.write(text + "\n")
            if copied > _LOG_LIMIT:
                break
        for _ in blocks:
            pass


def _escape(name: str) -> str:
    """Return a file name as text that can be hashed, printed and stored.

    Bytes that are not UTF-8 become escapes such as `\\xe9`.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _measure(folder: Path) -> tuple[int, int]:
    """Return the bytes below a folder and its latest modification, in nanoseconds."""
    size = latest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(parent, name))  # noqa: PTH118 -- many files
                size, latest = size + status.st_size, max(latest, status.st_mtime_ns)
    return size, latest


def _fill(argument: str, values: dict[str, str]) -> str:
    """Replace placeholders by their values, once: a value may contain a placeholder itself."""
    placeholder, *rest = values
    parts = argument.split(placeholder)
    if rest:
        parts = [_fill(part, {name: values[name] for name in rest}) for part in parts]
    return values[placeholder].join(parts)
