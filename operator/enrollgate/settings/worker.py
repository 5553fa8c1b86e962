"""The settings of a worker. A launcher hands them over as environment variables; none of them is a secret."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, PlainValidator, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enrollgate.domain.destination import Destination, DirectoryDestination, parse_destination
from enrollgate.settings.sources import PREFIX
from enrollgate.settings.types import Argv, Seconds, SomePath, Words
from enrollgate.settings.validators import check_chunk, check_command, check_endpoint, check_host


def _as_destination(value: object) -> Destination:
    return parse_destination(str(value))


DestinationText = Annotated[Destination, NoDecode, PlainValidator(_as_destination)]


class WorkerSettings(BaseSettings):
    """What a worker needs to know of every course. The operator's own settings include these."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        validate_default=True,
    )

    downloader: Literal["yt-dlp", "command"] = Field(
        "yt-dlp", description="What downloads: `yt-dlp` or `command`."
    )
    download_command: Argv = Field(
        (),
        description="The command for `command`: a command line or a JSON array, with `{course_url}` and `{output_dir}` "
        "in it. It is started without a shell.",
        examples=["python3 main.py -c {course_url} -o {output_dir}"],
    )
    destination: DestinationText = Field(
        DirectoryDestination(Path("downloads")),
        description="Where courses go: `directory:/path` or `drive:<folder id>`.",
    )
    drive_credentials: SomePath | None = Field(
        None,
        description="A service account's key or a user's login (`enrollgate drive login`), as JSON. Not given: the workload's "
        "own identity (application default credentials). docs/destinations.md has the steps.",
        examples=["/etc/enrollgate/drive/credentials.json"],
    )
    drive_subject: str | None = Field(
        None,
        description="The user that a service account with domain-wide delegation acts for.",
        examples=["courses@school.example"],
    )
    drive_chunk_size: ByteSize = Field(
        ByteSize(8 * 2**20),
        description="Bytes of an upload's request: a multiple of 256KiB, 256MiB at most.",
    )
    drive_endpoint: str = Field(
        "https://www.googleapis.com/", description="Where Google Drive is, for tests."
    )
    downloads: int = Field(
        2, ge=1, le=16, description="Items that a worker downloads at the same time, at most."
    )
    uploads: int = Field(
        2, ge=1, le=16, description="Items that a worker delivers at the same time, at most."
    )
    download_rate: ByteSize | None = Field(
        None,
        ge=1024,
        description="Bytes per second that a worker downloads, at most, all its items together. Not given: no limit. A download "
        "command is not limited: give it an option of its own.",
        examples=["5MB"],
    )
    upload_rate: ByteSize | None = Field(
        None,
        ge=1024,
        description="Bytes per second that a worker delivers, at most, all its items together. Not given: no limit.",
        examples=["5MB"],
    )
    allowed_hosts: Words = Field(
        (),
        description="The hosts that may be contacted, comma-separated; `*.example.com` means its subdomains. Empty: every "
        "public host, over https. Plain http and private addresses need the host listed literally.",
        examples=["courses.example.com,*.cdn.example.com"],
    )
    cookies_dir: SomePath | None = Field(
        None,
        description="The folder with the accounts' cookies files: `cookies-<first 32 hexadecimal digits of the SHA-256 of "
        "the lower-cased e-mail>.txt`, and `cookies.txt` for all others. Netscape format.",
        examples=["/etc/enrollgate/cookies"],
    )
    scratch_limit: ByteSize = Field(
        ByteSize(5 * 2**30),
        gt=0,
        description="Bytes of files downloaded and not yet delivered, at most (`5GiB`). What a download command leaves is not "
        "counted: it is all kept until the command has ended.",
    )
    stop_grace: Seconds = Field(
        30, description="Seconds a run gets to end when it is asked to, before it is killed."
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_host(host.lower()) for host in value)

    @field_validator("drive_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return check_endpoint(value)

    @field_validator("drive_chunk_size")
    @classmethod
    def _chunk(cls, value: ByteSize) -> ByteSize:
        check_chunk(value)
        return value

    @model_validator(mode="after")
    def _check_downloader(self) -> Self:
        check_command(self.downloader, self.download_command)
        return self

    def to_env(self) -> dict[str, str]:
        """Write the settings that differ from their defaults as environment variables,
        for a worker of the same version to read."""
        environment = {}
        for name, field in WorkerSettings.model_fields.items():
            value = getattr(self, name)
            if value != field.get_default() or name in _ALWAYS:
                environment[PREFIX + name.upper()] = _as_text(name, value)
        return environment


_ALWAYS = frozenset({"destination"})
"""Handed over even if it is the default, which depends on the folder of the start."""


def _as_text(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(value) if name == "download_command" else ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
