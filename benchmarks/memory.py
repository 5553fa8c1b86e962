"""The memory of processes.

`getrusage` will not do: its peak counts what the parent had when it forked.
"""

import re
from pathlib import Path


def peak(pid: int | str = "self") -> float:
    """Megabytes that a process had resident at most, since it began its program (VmHWM in proc(5)); 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0
