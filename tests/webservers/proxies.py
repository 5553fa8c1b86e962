"""Real forward proxies: tinyproxy (HTTP CONNECT) and microsocks (SOCKS5).

They alone know the name `drive.test`: a client that goes around them cannot reach it. Their hosts
file is in a mount namespace of their own.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.databases.server import die_with_parent, free_port

NAME = "drive.test"
USER, PASSWORD = "worker", "password"
_START_TIMEOUT = 30.0
_CONFIG = """
User root
Group root
Port {port}
Listen 127.0.0.1
Timeout 600
LogFile "{log}"
LogLevel Connect
Allow 127.0.0.1
{login}
{ports}
"""


@dataclass(frozen=True)
class ForwardProxy:
    """A proxy that runs. `log` is what it writes for each connection."""

    port: int
    log: Path

    def connects(self) -> int:
        """Return how many connections it was asked for."""
        return self.log.read_text().count("CONNECT ") if self.log.exists() else 0


@contextmanager
def start_tinyproxy(
    folder: Path, *, with_login: bool = False, allowed_port: int | None = None
) -> Iterator[ForwardProxy]:
    """Run tinyproxy. It may connect to `allowed_port` only; None is every port."""
    port, log = free_port(), folder / "tinyproxy.log"
    config = folder / "tinyproxy.conf"
    config.write_text(
        _CONFIG.format(
            port=port,
            log=log,
            login=f"BasicAuth {USER} {PASSWORD}" if with_login else "",
            ports=f"ConnectPort {allowed_port}" if allowed_port else "",
        )
    )
    with _running(folder, f"tinyproxy -d -c {config}", port):
        yield ForwardProxy(port, log)


@contextmanager
def start_microsocks(folder: Path) -> Iterator[ForwardProxy]:
    """Run microsocks."""
    port, log = free_port(), folder / "microsocks.log"
    with _running(folder, f"microsocks -i 127.0.0.1 -p {port} 2>{log}", port):
        yield ForwardProxy(port, log)


@contextmanager
def _running(folder: Path, command: str, port: int) -> Iterator[None]:
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    script = f"mount --bind {hosts} /etc/hosts && exec {command}"
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 -- it only asks the kernel for a signal
    )
    try:
        end = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()
