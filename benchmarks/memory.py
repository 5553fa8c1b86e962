"""The memory of processes.

`getrusage` does not help: its peak includes the parent's memory at the time of the fork.
"""

import re
from pathlib import Path


def peak(pid: int | str = "self") -> float:
    """Return the most memory that a process had resident, in MB, or 0 if it has ended.

    It is counted from the start of the program (VmHWM in proc(5)).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0
