"""Real database servers for the tests: private ones, started from what the machine has, stopped at the end."""

from tests.databases.server import Server
from tests.databases.start import ServerAbsent, start_mariadb, start_mysql

__all__ = ["Server", "ServerAbsent", "start_mariadb", "start_mysql"]
