"""Let file modes apply to a test that root runs, as they do to any other user.

Another user id would not do: the interpreter may be in a folder that only root can enter.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# capabilities(7), capget(2), prctl(2)
_VERSION = 0x20080522
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER = 1, 2, 3
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_SECBIT_NOROOT = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def modes_apply() -> Iterator[None]:
    """Take from this thread, and from what it starts, the right to ignore modes and owners."""
    if os.geteuid() != 0:
        yield
        return
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    # Twice: effective, permitted and inheritable.
    before = (ctypes.c_uint32 * 6)()
    _check(_LIBC.capget(header, before))
    fewer = (ctypes.c_uint32 * 6)(*before)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER):
        fewer[0] &= ~(1 << capability)
    bits = _LIBC.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    _check(_LIBC.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NOROOT, 0, 0, 0))
    _check(_LIBC.capset(header, fewer))
    try:
        yield
    finally:
        _check(_LIBC.capset(header, before))
        _check(_LIBC.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
