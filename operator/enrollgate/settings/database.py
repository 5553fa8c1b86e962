"""Where the database is: the settings in parts, and how a database URL is parsed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from enrollgate.settings.types import TRIMMED, Line, SomePath

if TYPE_CHECKING:
    from sqlalchemy import URL


class DatabaseSettings(BaseModel):
    """The parts of a MySQL or MariaDB address, for a password that is in a Secret of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    host: Line | None = Field(
        None, min_length=1, description="Host of the MySQL or MariaDB server.", examples=["mysql"]
    )
    port: int = Field(3306, ge=1, le=65535, description="Port of the server.")
    user: Line | None = Field(
        None, description="User that Enrollgate logs in as.", examples=["enrollgate"]
    )
    password: Annotated[SecretStr, TRIMMED] = Field(
        SecretStr(""), description="The user's password. It is best put in a secrets folder."
    )
    name: Line | None = Field(
        None, description="The database (schema) that holds the task table.", examples=["courses"]
    )
    tls_ca: SomePath | None = Field(
        None,
        description="CA certificate (PEM) that verifies the server. Setting it turns TLS on.",
        examples=["/etc/mysql/ca.pem"],
    )
    tls_verify_hostname: bool = Field(
        True, description="Whether the server's certificate must name its host."
    )


def parse_database_url(text: str) -> "URL":
    """Return the address as SQLAlchemy's URL. A relative SQLite path becomes absolute.

    Raises ValueError whose message never shows the address: it may carry a password.
    """
    # Workers load these settings' names, too, but no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    unencoded = ValueError(
        "its user or password has an @, / or % that is not percent-encoded: write %40 for @, %2F "
        "for / and %25 for %, or set ENROLLGATE_DATABASE__HOST, __USER, __NAME and __PASSWORD "
        "instead"
    )
    is_odd = text.count("@") > 1 or re.search(r"%(?![0-9A-Fa-f]{2})", text)
    if is_odd and not text.startswith("sqlite"):
        raise unencoded
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(
            "it is not a database URL: write mysql://user:password@host:port/name, and "
            "percent-encode special characters of the password"
        ) from None
    if "@" in (url.database or "") and url.drivername != "sqlite":
        raise unencoded
    options = sorted(set(url.query) - {"charset"})
    if options:
        raise ValueError(
            f"it has the option {options[0]!r}: remove it; TLS is ENROLLGATE_DATABASE__TLS_CA"
        )
    if url.drivername == "sqlite":
        if not url.database:
            raise ValueError("it names no file: write sqlite:////absolute/path")
        return url.set(database=str(Path(url.database).absolute()))
    if url.drivername not in ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"):
        raise ValueError(f"{url.drivername!r} is not supported: use mysql:// or sqlite:///")
    if not url.host or not url.database:
        raise ValueError(
            "it names no host or no database: write mysql://user:password@host:port/name"
        )
    if not 1 <= (url.port or 3306) <= 65535:
        raise ValueError(f"its port is {url.port}: write one from 1 to 65535, or none for 3306")
    return url.set(drivername="mysql+pymysql").difference_update_query(["charset"])
