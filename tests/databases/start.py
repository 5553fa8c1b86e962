"""Initialise and start each kind of server.

MySQL is not installed but unpacked (`scripts/mysql`), so its own dynamic loader has to run it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pymysql
from tests.databases.server import PASSWORD, Server, as_user, free_port

REPOSITORY = Path(__file__).resolve().parents[2]


class ServerAbsent(Exception):
    """This machine has no such server. The message says how to get one."""


def _own(folder: Path) -> None:
    """Create a folder if needed, and give it to the user that the server runs as."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")


def start_mariadb(folder: Path, *options: str) -> Server:
    """Start a fresh MariaDB in this folder, with these options. Raises ServerAbsent."""
    program = _mariadb_program()
    data, temporary = folder / "data", folder / "tmp"
    _own(folder)
    _own(temporary)
    installer = shutil.which("mariadb-install-db") or "/usr/bin/mariadb-install-db"
    _run(
        *as_user(
            installer,
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            # Not shared: a server that starts removes the temporary tables that it finds there.
            f"--tmpdir={temporary}",
        )
    )
    _own(data)
    port = free_port()
    command = as_user(
        program,
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={folder}/socket",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-buffer-pool-size=256M",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_general_ci",
        f"--tmpdir={temporary}",
        *options,
    )
    server = Server(command, folder, port, ready=lambda _port: _set_password(folder / "socket"))
    server.start()
    return server


def _mariadb_program() -> str:
    for place in (shutil.which("mariadbd"), "/usr/sbin/mariadbd", "/usr/libexec/mariadbd"):
        if place and Path(place).exists():
            return place
    raise ServerAbsent("no mariadbd: run scripts/mariadb, or set ENROLLGATE_TEST_MARIADB_URL")


def start_mysql(folder: Path, *options: str) -> Server:
    """Start a fresh MySQL in this folder, with these options. Raises ServerAbsent."""
    root = REPOSITORY / ".cache" / "mysql" / "root"
    loader = next(iter(root.glob("usr/lib*/ld-linux-x86-64.so.2")), None)
    program = root / "usr" / "sbin" / "mysqld"
    if loader is None or not program.exists():
        raise ServerAbsent(
            "no MySQL server unpacked: run scripts/mysql, or set ENROLLGATE_TEST_MYSQL_URL"
        )
    _own(folder)
    _own(folder / "tmp")
    libraries = ":".join(
        str(path) for path in (root / "usr/lib/x86_64-linux-gnu", root / "usr/lib/mysql/private")
    )
    base = [
        str(loader),
        "--library-path",
        libraries,
        str(program),
        "--no-defaults",
        f"--datadir={folder}/data",
    ]
    messages = [
        f"--lc-messages-dir={root}/usr/share/mysql",
        "--secure-file-priv=",
        f"--tmpdir={folder}/tmp",
    ]
    _run(*as_user(*base, "--initialize-insecure", *messages))
    port = free_port()
    command = as_user(
        *base,
        *messages,
        f"--socket={folder}/socket",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--mysqlx=OFF",
        "--innodb-flush-log-at-trx-commit=2",
        "--skip-log-bin",
        f"--pid-file={folder}/pid",
        *options,
    )
    server = Server(command, folder, port, ready=lambda _port: _set_password(folder / "socket"))
    server.start()
    return server


def _set_password(unix_socket: Path) -> None:
    connection = pymysql.connect(
        unix_socket=str(unix_socket), user="root", password="", autocommit=True
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE USER IF NOT EXISTS root@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute("GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION")
            cursor.execute(f"ALTER USER root@localhost IDENTIFIED BY '{PASSWORD}'")
    finally:
        connection.close()


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
