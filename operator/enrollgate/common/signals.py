"""SIGTERM and SIGINT are obeyed by a thread of their own.

A signal handler runs in the midst of whatever the main thread does: it would wait forever for a lock that the main thread holds
just then. So the signal's number goes through a pipe, even while the main thread is in native code.
https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
"""

import os
import signal
import threading
from collections.abc import Callable


def obey_signals(obey: Callable[[str], object]) -> None:
    """Calls `obey`, once, with the name of the first SIGTERM or SIGINT to come. To be called from the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def wait() -> None:
        obey(signal.Signals(os.read(reader, 1)[0]).name)

    threading.Thread(target=wait, name="signals", daemon=True).start()
