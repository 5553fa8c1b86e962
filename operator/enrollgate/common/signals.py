"""Handle SIGTERM and SIGINT in a thread.

A Python signal handler interrupts the main thread anywhere: it would wait forever for a lock that
the main thread holds. So the signal's number goes through a pipe to a thread. This works even while
the main thread runs native code.
https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
"""

import os
import signal
import threading
from collections.abc import Callable


def handle_signals(handler: Callable[[str], object]) -> None:
    """Call the handler once, with the name of the first SIGTERM or SIGINT.

    Call this from the main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def wait() -> None:
        handler(signal.Signals(os.read(reader, 1)[0]).name)

    threading.Thread(target=wait, name="signals", daemon=True).start()
