"""The embedded database is for its owner alone: it holds e-mail addresses."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from enrollgate.database import migrate, open_database


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_sqlite_file_and_its_wal_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "new" / "enrollgate.db"
    before = os.umask(umask)
    try:
        with closing(open_database(make_url(f"sqlite:///{file}"))) as database:
            migrate(database)
            database.now()
            modes = {path.name: oct(path.stat().st_mode & 0o777) for path in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ("enrollgate.db", "enrollgate.db-wal", "enrollgate.db-shm"), "0o600"
    )


def test_sqlite_file_of_somebody_else_keeps_its_mode(tmp_path: Path) -> None:
    """Node.js may run as another user and share the file by its group."""
    file = tmp_path / "shared.db"
    file.touch()
    file.chmod(0o660)
    with closing(open_database(make_url(f"sqlite:///{file}"))) as database:
        migrate(database)
    assert oct(file.stat().st_mode & 0o777) == "0o660"
