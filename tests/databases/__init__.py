"""Real database servers for the tests, and the table that Node.js owns.

Each server is private: started from the programs on this machine, and killed at the end. Tests and
benchmarks may import this package.
"""

from tests.databases.server import Server
from tests.databases.start import ServerAbsent, start_mariadb, start_mysql

__all__ = ["Server", "ServerAbsent", "start_mariadb", "start_mysql"]
