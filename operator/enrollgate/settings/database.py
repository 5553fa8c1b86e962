"""Where the database is: the settings in parts, and what makes a database URL."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from enrollgate.settings.types import SomePath


class DatabaseSettings(BaseModel):
    """The parts of a MySQL or MariaDB address, for those who keep the password in a Secret of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str | None = Field(
        None, min_length=1, description="Host of the MySQL or MariaDB server.", examples=["mysql"]
    )
    port: int = Field(3306, ge=1, le=65535, description="Its port.")
    user: str | None = Field(None, description="The user to log in as.", examples=["enrollgate"])
    password: SecretStr = Field(
        SecretStr(""), description="The user's password. Best from a secrets folder."
    )
    name: str | None = Field(
        None, description="The database (schema) that holds the task table.", examples=["courses"]
    )
    tls_ca: SomePath | None = Field(
        None,
        description="CA certificate (PEM) to verify the server with; sets TLS on.",
        examples=["/etc/mysql/ca.pem"],
    )
    tls_verify_hostname: bool = Field(
        True, description="Whether the server's certificate must name its host."
    )


def parse_database_url(text: str) -> URL:
    """The address for SQLAlchemy. Raises ValueError that never shows it: it may carry a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            "it is not a database URL: write mysql://user:password@host:port/name"
        ) from error
    options = sorted(set(url.query) - {"charset"})
    if options:
        raise ValueError(
            f"it has the option {options[0]!r}: remove it; TLS is ENROLLGATE_DATABASE__TLS_CA"
        )
    if url.drivername == "sqlite":
        if not url.database:
            raise ValueError("it names no file: write sqlite:////absolute/path")
        return url
    if url.drivername not in ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"):
        raise ValueError(
            f"{url.drivername!r} is not a database Enrollgate speaks: use mysql:// or sqlite:///"
        )
    if not url.host or not url.database:
        raise ValueError(
            "it names no host or no database: write mysql://user:password@host:port/name"
        )
    if not 1 <= (url.port or 3306) <= 65535:
        raise ValueError(f"its port is {url.port}: write one from 1 to 65535, or none for 3306")
    return url.set(drivername="mysql+pymysql").difference_update_query(["charset"])
