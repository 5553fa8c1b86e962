"""The settings of a worker.

A launcher hands them over as environment variables (`to_env`), and the worker loads them again
(`settings.loading.load_worker_settings`). None of them is a secret.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, PlainValidator, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from enrollgate.domain.destination import Destination, DirectoryDestination, parse_destination
from enrollgate.domain.reasons import ACCEPTABLE_REASONS
from enrollgate.settings.sources import PREFIX, SecretsFolder
from enrollgate.settings.types import Argv, Seconds, SomePath, TextList
from enrollgate.settings.validators import (
    check_chunk,
    check_command,
    check_endpoint,
    check_host,
    check_languages,
)

ParsedDestination = Annotated[
    Destination, NoDecode, PlainValidator(lambda value: parse_destination(str(value)))
]


class WorkerSettings(BaseSettings):
    """What a worker needs to know of every course. The operator's own settings include these."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        validate_default=True,
        defer_build=True,  # the operator's model includes this one: a process uses only one of them
    )

    downloader: Literal["yt-dlp", "command"] = Field(
        "yt-dlp", description="What downloads courses: `yt-dlp` or `command`."
    )
    download_command: Argv = Field(
        (),
        description="The command for ENROLLGATE_DOWNLOADER=command: a command line or a JSON "
        "array that contains `{course_url}` and `{output_dir}`. It is started without a shell.",
        examples=["python3 main.py -c {course_url} -o {output_dir}"],
    )
    destination: ParsedDestination = Field(
        DirectoryDestination(Path("downloads")),
        description="Where courses are delivered: `directory:/path` or `drive:<folder id>`.",
    )
    drive_credentials: SomePath | None = Field(
        None,
        description="The JSON file of a service account's key or of a user's login "
        "(`enrollgate drive login`). Not set: the workload's own identity (application default "
        "credentials). docs/destinations.md has the steps.",
        examples=["/etc/enrollgate/drive/credentials.json"],
    )
    drive_subject: str | None = Field(
        None,
        description="The user for whom a service account with domain-wide delegation acts.",
        examples=["courses@school.example"],
    )
    drive_chunk_size: ByteSize = Field(
        ByteSize(8 * 2**20),
        description="Bytes of one upload request: a multiple of 256KiB, 256MiB at most.",
    )
    drive_endpoint: str = Field(
        "https://www.googleapis.com/", description="The URL of Google Drive; tests change it."
    )
    downloads: int = Field(
        2, ge=1, le=16, description="Maximum number of items that a worker downloads at a time."
    )
    uploads: int = Field(
        2, ge=1, le=16, description="Maximum number of items that a worker delivers at a time."
    )
    download_rate: ByteSize | None = Field(
        None,
        ge=1024,
        description="Maximum bytes per second that a worker downloads, all items together. Not "
        "set: no limit. It does not limit a download command: use the command's own option.",
        examples=["5MB"],
    )
    upload_rate: ByteSize | None = Field(
        None,
        ge=1024,
        description="Maximum bytes per second that a worker delivers, all items together. Not "
        "set: no limit.",
        examples=["5MB"],
    )
    allowed_hosts: TextList = Field(
        (),
        description="The hosts that may be contacted, comma-separated; `*.example.com` means its "
        "subdomains. Empty: every public host, over https. For plain http or a private address, "
        "list the host itself. Of a download command, only the course's URL is checked: what the "
        "command contacts then is its own affair.",
        examples=["courses.example.com,*.cdn.example.com"],
    )
    min_download_rate: ByteSize = Field(
        ByteSize(1024),
        description="Bytes per second that each connection to a site must send. One that sends "
        "less over a minute is given up. 0: no minimum.",
    )
    max_retry_after: Seconds = Field(
        60,
        description="Seconds that a worker waits at most when a site answers 429 or 503 with "
        "`Retry-After`. If the site asks for more, the attempt ends.",
    )
    incomplete: Literal["fail", "accept"] = Field(
        "fail",
        description="What happens if items of a course cannot be delivered for good: `fail`, or "
        "`accept`: the task becomes `completed`, and the items are named as left out.",
    )
    incomplete_reasons: TextList = Field(
        ("DrmProtected", "UnsupportedCourse"),
        description="The reasons of items that ENROLLGATE_INCOMPLETE=accept accepts, "
        f"comma-separated. Possible: {', '.join(f'`{each}`' for each in ACCEPTABLE_REASONS)}. "
        "Those that a retry can help are accepted in the last attempt only.",
        examples=["DrmProtected,CourseNotFound"],
    )
    cookies_dir: SomePath | None = Field(
        None,
        description="The folder of the accounts' cookies files, in Netscape format: `cookies-"
        "<first 32 hexadecimal digits of the SHA-256 of the lower-cased e-mail>.txt`, and "
        "`cookies.txt` for all other accounts.",
        examples=["/etc/enrollgate/cookies"],
    )
    scratch_limit: ByteSize = Field(
        ByteSize(5 * 2**30),
        gt=0,
        description="Maximum bytes of files that are downloaded and not yet delivered (`5GiB`). "
        "The files of a download command do not count: all are kept until the command ends.",
    )
    quality: Literal["best", "1080", "720", "480", "360", "audio"] = Field(
        "best",
        description="The rendition that is downloaded: the `best`; at most so many lines (the "
        "smallest one, if all have more); or the sound alone, which is never encoded again. It "
        "applies to lectures that are not delivered yet.",
        examples=["720"],
    )
    subtitles: TextList = Field(
        ("all",),
        description="The site's subtitles to deliver: `all`, `none`, or languages, "
        "comma-separated; `en` includes `en-US`. Each is a file beside its lecture.",
        examples=["en,vi"],
    )
    automatic_subtitles: bool = Field(
        False,
        description="Whether machine-made subtitles are delivered too, in the wanted languages "
        "that the site's authors gave none for.",
    )
    attachments: bool = Field(
        True,
        description="Whether the files, links and articles of a course are delivered, where the "
        "site lists them (Udemy).",
    )
    thumbnails: bool = Field(
        False, description="Whether each lecture's preview picture is delivered beside it."
    )
    course_index: bool = Field(
        True,
        description="Whether `index.html` and `course.json` are written to the course's folder: "
        "what the course contains, in its order, with links to the files.",
    )
    stop_grace: Seconds = Field(
        30, description="Seconds that a run has to end after it is asked to; then it is killed."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let secrets win over the environment, and the environment over the file."""
        secrets = SecretsFolder(file_secret_settings)
        return init_settings, secrets, env_settings, dotenv_settings

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_host(host.lower()) for host in value)

    @field_validator("subtitles")
    @classmethod
    def _languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_languages(value)

    @field_validator("drive_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return check_endpoint(value)

    @field_validator("drive_chunk_size")
    @classmethod
    def _chunk_size(cls, value: ByteSize) -> ByteSize:
        check_chunk(value)
        return value

    @field_validator("incomplete_reasons")
    @classmethod
    def _reasons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reason in value:
            if reason not in ACCEPTABLE_REASONS:
                possible = ", ".join(ACCEPTABLE_REASONS)
                raise ValueError(f"{reason!r} cannot be accepted: write one or more of {possible}")
        return value

    @model_validator(mode="after")
    def _check_downloader(self) -> Self:
        check_command(self.downloader, self.download_command)
        return self

    def to_env(self) -> dict[str, str]:
        """Return the settings as environment variables for a worker of the same version.

        Defaults are left out. The default destination is not: it depends on the current folder.
        """
        environment = {}
        for name, field in WorkerSettings.model_fields.items():
            match value := getattr(self, name):
                case _ if value == field.default:
                    continue
                case tuple() if name == "download_command":
                    text = json.dumps(value)
                case tuple():
                    text = ",".join(value)
                case float():
                    text = repr(value).removesuffix(".0")
                case _:
                    text = str(value)
            environment[f"{PREFIX}{name}".upper()] = text
        return environment
