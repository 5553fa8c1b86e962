"""TLS to MariaDB, with a certificate that names localhost but not 127.0.0.1."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url, text
from tests.cluster.control_plane.certificates import Authority
from tests.conftest import server_in_a_folder
from tests.databases import Server, start_mariadb
from tests.databases.server import fresh_database

from enrollgate.database import DatabaseMisconfigured, open_database

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Secured:
    """A database on a server that accepts only TLS."""

    url: URL
    ca: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Secured]:
    pair = authority.server("192.0.2.1")

    def start(folder: Path) -> Server:
        for file in (pair.certificate, pair.key):
            (folder / file.name).write_bytes(file.read_bytes())
        names = (
            f"--ssl-cert={folder / pair.certificate.name}",
            f"--ssl-key={folder / pair.key.name}",
        )
        return start_mariadb(folder, *names, "--require-secure-transport=ON")

    with (
        server_in_a_folder("ENROLLGATE_TEST_MARIADB_URL", start) as server,
        fresh_database(server.url("")) as url,
    ):
        yield Secured(make_url(url).set(host="localhost"), authority.certificate)


def cipher(
    secured: Secured,
    *,
    host: str = "localhost",
    ca: Path | None = None,
    verify_hostname: bool = True,
) -> str:
    url = secured.url.set(host=host)
    with closing(
        open_database(url, tls_ca=ca or secured.ca, tls_verify_hostname=verify_hostname)
    ) as database:
        with database.read_transaction() as connection:
            return str(connection.execute(text("SHOW STATUS LIKE 'Ssl_cipher'")).one()[1])


def test_the_right_ca_opens_the_database_over_tls(secured: Secured) -> None:
    assert cipher(secured).startswith(("TLS_", "ECDHE-"))


def test_a_server_signed_by_another_ca_is_refused_with_the_remedy(
    secured: Secured, tmp_path: Path
) -> None:
    message = (
        "certificate verify failed.*: name the CA that signed the server's certificate "
        "in ENROLLGATE_DATABASE__TLS_CA"
    )
    with pytest.raises(DatabaseMisconfigured, match=message):
        cipher(secured, ca=Authority(tmp_path).certificate)


def test_a_certificate_of_another_host_is_refused_unless_allowed(
    secured: Secured,
) -> None:
    message = (
        "mismatch, certificate is not valid for '127.0.0.1'.*: name the server .* as its "
        "certificate does, or set"
    )
    with pytest.raises(DatabaseMisconfigured, match=message):
        cipher(secured, host="127.0.0.1")
    assert cipher(secured, host="127.0.0.1", verify_hostname=False)


def test_without_host_check_the_ca_is_still_checked(secured: Secured, tmp_path: Path) -> None:
    with pytest.raises(DatabaseMisconfigured, match="name the CA that signed"):
        cipher(secured, host="127.0.0.1", ca=Authority(tmp_path).certificate, verify_hostname=False)


def test_a_server_without_tls_is_refused(authority: Authority) -> None:
    def start(folder: Path) -> Server:
        return start_mariadb(folder, "--skip-ssl")

    with server_in_a_folder("ENROLLGATE_TEST_MARIADB_URL", start) as server:
        with closing(
            open_database(make_url(server.url("mysql")), tls_ca=authority.certificate)
        ) as database:
            with pytest.raises(
                DatabaseMisconfigured,
                match="let the server speak TLS, or remove ENROLLGATE_DATABASE__TLS_CA",
            ):
                database.now()


def test_the_commands_use_the_tls_settings(secured: Secured, tmp_path: Path) -> None:
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    settings = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ENROLLGATE_DATABASE__HOST": "localhost",
        "ENROLLGATE_DATABASE__PORT": str(secured.url.port),
        "ENROLLGATE_DATABASE__USER": str(secured.url.username),
        "ENROLLGATE_DATABASE__PASSWORD": str(secured.url.password),
        "ENROLLGATE_DATABASE__NAME": str(secured.url.database),
        "ENROLLGATE_DATABASE__TLS_CA": str(secured.ca),
    }

    def migrate(**changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "enrollgate", "migrate"]
        environment = (
            others
            | settings
            | {f"ENROLLGATE_DATABASE__{name}": value for name, value in changes.items()}
        )
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert migrate().returncode == 0
    refused = migrate(HOST="127.0.0.1")
    assert (
        refused.returncode == 2
        and "ENROLLGATE_DATABASE__TLS_VERIFY_HOSTNAME=false" in refused.stderr
    )
    assert migrate(HOST="127.0.0.1", TLS_VERIFY_HOSTNAME="false").returncode == 0
    refused = migrate(TLS_CA=str(Authority(tmp_path).certificate))
    assert refused.returncode == 2 and "ENROLLGATE_DATABASE__TLS_CA" in refused.stderr
    assert "only-for-tests" not in refused.stderr
