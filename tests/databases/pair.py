"""Two MariaDB servers that replicate, behind one address, and change their roles on request.

The change is an orderly one: the new primary has every transaction of the old one. What clients
see is the hard part of it: their open connections still lead to the old server, which is read-only.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pymysql
from sqlalchemy import make_url
from tests.conftest import server_in_a_folder
from tests.databases.server import PASSWORD, USER, Server
from tests.databases.start import start_mariadb
from tests.tcp_proxy import TcpProxy

# Seconds that the replica may take to catch up.
_CATCH_UP = 120


class ReplicatedPair:
    """A primary, its replica and the address that always leads to the primary."""

    def __init__(self, primary: Server, replica: Server, proxy: TcpProxy) -> None:
        self.primary, self.replica = primary, replica
        self._proxy = proxy
        for server in (primary, replica):
            _query(server, "RESET MASTER")
        self._follow()

    def url(self, database: str) -> str:
        """Return the administrator's URL of the address."""
        url = make_url(self.primary.url(database)).set(port=self._proxy.port)
        return url.render_as_string(hide_password=False)

    def switch(self) -> None:
        """Make the replica the primary. Connections that are open stay with the old primary."""
        old, new = self.primary, self.replica
        _query(old, "SET GLOBAL read_only = 1")
        position = _query(old, "SELECT @@gtid_binlog_pos")
        assert _query(new, f"SELECT MASTER_GTID_WAIT('{position}', {_CATCH_UP})") == 0
        _query(new, "STOP SLAVE")
        _query(new, "RESET SLAVE ALL")
        _query(new, "SET GLOBAL read_only = 0")
        self._proxy.switch(new.port)
        _query(old, f"SET GLOBAL gtid_slave_pos = '{position}'")
        self.primary, self.replica = new, old
        self._follow()

    def _follow(self) -> None:
        _query(self.replica, "SET GLOBAL read_only = 1")
        _query(
            self.replica,
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self.primary.port}, "
            f"MASTER_USER = '{USER}', MASTER_PASSWORD = '{PASSWORD}', MASTER_CONNECT_RETRY = 1, "
            "MASTER_USE_GTID = slave_pos",
        )
        _query(self.replica, "START SLAVE")


def _query(server: Server, statement: str) -> object:
    """Run a statement on one server, not through the address. Returns its first value."""
    connection = pymysql.connect(
        host="127.0.0.1", port=server.port, user=USER, password=PASSWORD, autocommit=True
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row else None


@contextmanager
def replicated_pair() -> Iterator[ReplicatedPair]:
    """Start both servers, and kill them at the end. Skips where there is no MariaDB."""

    def start(folder: Path, number: int) -> Server:
        return start_mariadb(
            folder,
            f"--server-id={number}",
            "--log-bin=binlog",
            "--binlog-format=ROW",
            "--log-slave-updates",
            "--innodb-buffer-pool-size=64M",
        )

    variable = "ENROLLGATE_TEST_MARIADB_URL"
    with (
        server_in_a_folder(variable, lambda folder: start(folder, 1)) as first,
        server_in_a_folder(variable, lambda folder: start(folder, 2)) as second,
        TcpProxy(first.port) as proxy,
    ):
        yield ReplicatedPair(first, second, proxy)
