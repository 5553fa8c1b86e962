"""Run a program, and end only when the program and all processes that it started have ended.

    python -I subreaper.py STATUS_FD PARENT_PID PROGRAM [ARGUMENT ...]

The command downloader starts it as a process of its own. It is a subreaper (prctl(2)): an orphan
among the program's descendants becomes its child, even if the orphan has started a session of its
own. So nothing that the program left behind goes unnoticed, and /proc need not be searched.

To STATUS_FD it writes one word as soon as the program has ended, or could not be started:
`exit CODE` (negative: a signal) or `error ERRNO`. If its parent dies, the kernel kills it and the
program.

Imports the standard library only, and nothing of ours: it starts in a few milliseconds.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
# Looked up here, because nothing may be looked up between fork and exec.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


def main(arguments: list[str]) -> None:
    """Run the program and wait for all its descendants."""
    status, parent = int(arguments[0]), int(arguments[1])
    os.set_inheritable(status, False)
    # The program is asked to end, and then this process ends. A handler, unlike SIG_IGN, is not
    # inherited by the program.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    _PRCTL(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _die_with(parent)
    # The supervisor limits what the worker may map. It limits the program, with all its processes,
    # by what they really use.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    this_process = os.getpid()
    try:
        program = subprocess.Popen(
            arguments[2:],
            preexec_fn=lambda: _die_with(this_process),  # noqa: PLW1509 -- there is only one thread
        )
    except OSError as error:
        os.write(status, f"error {error.errno}".encode())
        return
    while True:
        try:
            ended, wait_status = os.wait()
        except ChildProcessError:
            return
        if ended == program.pid:
            program.returncode = os.waitstatus_to_exitcode(wait_status)
            os.write(status, f"exit {program.returncode}".encode())


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies."""
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl took effect
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
