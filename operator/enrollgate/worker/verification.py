"""Decide whether a downloaded file is what was meant. Nothing is delivered without it.

Sites answer with HTTP 200 and something else: an error as JSON, a maintenance page, an empty body,
a tiny picture. Connections break so that nobody notices. So every file is read to its end by
`file_check`, in a process of its own, and `judge` compares the findings with what was expected.

| what | how a missing end is noticed |
| --- | --- |
| MP4, M4A, MOV | the lengths of its boxes; the duration that it announces |
| Matroska, WebM | the length of its segment; the duration that it announces |
| MPEG-TS | whole packets; the playlist's duration |
| the fragments of a stream | what the playlist says of each (`fragments`) |
| WAV, AVI, AIFF, WebP, BMP, 7-Zip | the length that it announces |
| FLAC | the number of samples |
| MP3 | the length in its first frame, if it has one (Xing, Info) |
| Ogg, Opus | whole pages |
| PDF, PNG, JPEG, GIF | its end mark; the length of a linearized PDF |
| ZIP, Office, EPUB | the directory at its end |
| gzip, bzip2, xz, tar | the whole archive is read |
| AAC, AC-3, AMR, MP3 without that frame, RAR, old Office, text | only by a duration that is known |
"""

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from enrollgate.common.environment import inherited_environment
from enrollgate.common.files import file_md5
from enrollgate.common.strict_json import SIZE_LIMIT, parse_json
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Expected, Fetched
from enrollgate.worker.file_check import Findings, is_short
from enrollgate.worker.file_types import PLAYLIST, SUBTITLES, Family, family_by_extension

# Seconds that the check of one file may take, and bytes that it reads per second at least.
_TIMEOUT, _MIN_RATE = 120, 2_000_000
# Seconds between two looks at whether the run must stop.
_POLL_INTERVAL = 0.5
# Pictures with fewer bytes are no lectures' slides: sites answer so to what they refuse.
_TINY_IMAGE = 1_000
# The share by which a stream may play longer than its playlist says: packagers list the pictures,
# and the sound may go on.
_MAX_EXCESS = 1.0


def verify(
    fetched: Fetched,
    stop: threading.Event,
    fragments: Path | None = None,
    *,
    with_md5: bool = False,
) -> Fetched:
    """Return the file with the extension that its content asks for.

    `fragments` is the log of the fragments that the file of a stream consists of. `with_md5` adds
    the file's MD5, which is calculated while the other process checks the file.

    Raises Failure: SiteError if something else was sent, IncompleteDownload if its end is missing,
    Stopped.
    """
    expected = fetched.expected or Expected(fetched.file.suffix)
    digests = list[str]()

    def calculate() -> None:
        digests.append(file_md5(fetched.file, before_block=lambda: _raise_if_set(stop)))

    meanwhile = calculate if with_md5 else lambda: None
    findings = file_checker().check(fetched.file, stop, fragments, meanwhile)
    return replace(
        fetched,
        expected=expected,
        extension=judge(findings, expected),
        md5="".join(digests),
    )


def _raise_if_set(stop: threading.Event) -> None:
    if stop.is_set():
        message = "asked to stop; the next attempt checks the file again"
        raise Failure(Reason.STOPPED, message)


def judge(findings: Findings, expected: Expected) -> str:
    """Return the extension for a file that is what was expected. Raises Failure."""
    if findings.problem == "cut":
        message = f"the end of the file is missing ({findings.name}: {findings.detail})"
        raise Failure(Reason.INCOMPLETE_DOWNLOAD, message)
    if findings.problem == "broken":
        detail = f" that cannot be read: {findings.detail}" if findings.detail else ""
        raise Failure(Reason.SITE_ERROR, f"the download is {findings.name}{detail}")
    wanted = expected.extension.lower()
    known = family_by_extension(wanted)
    family = Family(findings.family)
    match family:
        case Family.MEDIA:
            _compare_duration(findings, expected)
            accepted = "video" in findings.streams or "audio" in findings.streams
        case Family.DOCUMENT:
            accepted = not expected.is_media
        case Family.IMAGE:
            accepted = not expected.is_media and (
                known is family or (known is Family.UNKNOWN and findings.size >= _TINY_IMAGE)
            )
        case Family.TEXT | Family.UNKNOWN:
            accepted = not expected.is_media and _is_named_so(findings, wanted, known)
    if not accepted:
        meant = "the media" if expected.is_media or known is Family.MEDIA else "the file"
        raise Failure(Reason.SITE_ERROR, f"the download is {findings.name} instead of {meant}")
    return _choose_extension(findings, wanted, known)


def _is_named_so(findings: Findings, wanted: str, known: Family) -> bool:
    """Return whether the name of a file announced text or data without a signature.

    Else it is an error message. Any name will do that is not the name of another kind of file: an
    attachment may be a program or a drawing.
    """
    texts = (Family.TEXT, Family.UNKNOWN)
    is_page, is_json = (each in findings.extensions for each in (".html", ".json"))
    if not wanted or findings.family == Family.UNKNOWN.value:
        named = bool(wanted) and known is Family.UNKNOWN
    elif wanted in SUBTITLES:
        named = not SUBTITLES.isdisjoint(findings.extensions)
    elif is_page or wanted in (".json", ".json3", ".xml", *PLAYLIST.extensions):
        named = wanted in findings.extensions
    elif is_json:
        # Notes may begin with anything, but an answer in JSON is an error.
        named = wanted not in (".txt", ".md", ".csv", ".tsv") and known in texts
    else:
        named = known in texts
    return named


def _compare_duration(findings: Findings, expected: Expected) -> None:
    """Raise Failure (IncompleteDownload) if media play noticeably shorter than was listed.

    A tenth is tolerated, and 5 s, or a minute if the listing may be rounded to minutes. Of a
    stream, what its playlist leaves open is tolerated. It must not be twice as long, either.
    """
    if findings.seconds is None or not expected.seconds:
        return
    seconds, listed = findings.seconds, expected.seconds
    if expected.slack is None:
        is_other = is_short(seconds, listed, slack=60.0 if listed % 60 == 0 else 5.0)
    else:
        is_long = seconds - listed > max(expected.slack, listed * _MAX_EXCESS)
        is_other = is_long or is_short(seconds, listed, expected.slack)
    if is_other:
        message = f"the file plays {seconds:,.0f} s, but it is listed with {listed:,.0f} s"
        raise Failure(Reason.INCOMPLETE_DOWNLOAD, message)


def _choose_extension(findings: Findings, wanted: str, known: Family) -> str:
    """Keep the extension that the file has if it fits, else take the usual one of its type."""
    if ".mp4" in findings.extensions and wanted not in findings.extensions:
        return ".mp4" if "video" in findings.streams else ".m4a"
    if not findings.extensions or wanted in findings.extensions:
        return wanted
    named_by_content = (Family.MEDIA.value, Family.IMAGE.value, Family.DOCUMENT.value)
    if findings.family in named_by_content and (known is not Family.UNKNOWN or not wanted):
        return findings.extensions[0]
    if findings.family in (Family.MEDIA.value, Family.IMAGE.value):
        return findings.extensions[0]
    if wanted in SUBTITLES:
        return findings.extensions[0]
    # A format of its own inside an archive or a text, such as `.apk` or `.py`.
    return wanted or findings.extensions[0]


_FINDINGS = TypeAdapter(Findings)


class FileChecker:
    """The process that checks files. It is started when it is needed, and again if it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, unless it runs: it takes a moment until it can check a file."""
        # While a file is checked, it runs.
        if self._lock.acquire(blocking=False):
            try:
                self._running()
            finally:
                self._lock.release()

    def check(
        self,
        file: Path,
        stop: threading.Event,
        fragments: Path | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Findings:
        """Return the findings. A file that kills or blocks the process is broken.

        `meanwhile` is called while the process works.

        Raises Failure (Stopped), and OSError if the file cannot be read.
        """
        deadline = time.monotonic() + _TIMEOUT + file.stat().st_size / _MIN_RATE
        with self._lock:
            answer = self._ask([file, fragments], stop, deadline, meanwhile)
        # What parses a hostile file may answer anything.
        detail = "its parser did not end" if answer is None else "its parser failed"
        with contextlib.suppress(ValueError):
            match parse_json(answer or b""):
                case {"error": int(number)}:
                    raise OSError(number, os.strerror(number), str(file))
                case found:
                    return _FINDINGS.validate_python(found)
        return Findings("a file", Family.UNKNOWN.value, problem="broken", detail=detail)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(
        self,
        paths: list[Path | None],
        stop: threading.Event,
        deadline: float,
        meanwhile: Callable[[], None],
    ) -> bytes | None:
        """Return the answer in JSON, None if the process died or did not answer in time."""
        process = self._running()
        requests, answers = process.stdin, process.stdout
        if requests is None or answers is None:
            raise AssertionError("it was started with pipes")
        line = b""
        try:
            requests.write(json.dumps([path and str(path) for path in paths]).encode() + b"\n")
            requests.flush()
            meanwhile()
            with selectors.DefaultSelector() as selector:
                selector.register(answers, selectors.EVENT_READ)
                while not line.endswith(b"\n") and time.monotonic() < deadline:
                    _raise_if_set(stop)
                    if selector.select(_POLL_INTERVAL):
                        block = os.read(answers.fileno(), 1 << 16)
                        if not block or len(line) > SIZE_LIMIT:
                            break
                        line += block
        except BrokenPipeError:
            line = b""
        finally:
            if not line.endswith(b"\n"):
                self._end()
        if not line.endswith(b"\n"):
            return None
        return line

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            environment = inherited_environment(os.environ)
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "enrollgate.worker.file_check"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # a signal to the worker's group is the worker's to handle
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with process:  # closes its pipes and waits for it
            pass


@functools.cache
def file_checker() -> FileChecker:
    """Return this process's checker, which is started once and ends with it."""
    checker = FileChecker()
    atexit.register(checker.close)
    return checker
