"""The processor time of processes (proc(5), stat), in seconds, all their threads together."""

import os
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return what a process has used since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def database_cpu_seconds() -> float:
    """Return what all MariaDB servers of this machine have used; benchmarks run alone."""
    return sum(
        cpu_seconds(process.pid)
        for process in psutil.process_iter(["name"])
        if process.info["name"] in ("mariadbd", "mysqld")
    )
