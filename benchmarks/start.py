"""The CPU time until a command has answered, relative to an interpreter that does nothing.

The modules are compiled before, as they are when pip has installed them.
"""

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.world import World

from benchmarks.backlog import discard_logs

# Each command is measured so often, and the least counts: other processes only add to it.
ROUNDS = 7
COMMANDS = (["--version"], ["--help"], ["status"], ["explain", "1"])


def measure_start() -> list[dict[str, object]]:
    """Measure each command on a small SQLite file."""
    discard_logs()
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'tasks.db'}"
        with closing(World(url)) as world:
            world.add("processing")
            world.reconcile()
        nothing = _cpu_ms(["-c", "pass"], url, Path(folder))
        for command in COMMANDS:
            spent = _cpu_ms(["-m", "enrollgate", *command], url, Path(folder))
            results.append(
                {
                    "command": f"enrollgate {' '.join(command)}",
                    "cpu_ms": spent,
                    "python_cpu_ms": nothing,
                    "relative_to_python": spent / nothing,
                }
            )
    return results


def _cpu_ms(arguments: list[str], url: str, folder: Path) -> float:
    """Return the CPU time of a process of Python, in milliseconds. The first round compiles."""
    times = []
    environment = os.environ | {
        "ENROLLGATE_DATABASE_URL": url,
        "ENROLLGATE_INSTALLATION": "test",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return 1000 * min(times)
