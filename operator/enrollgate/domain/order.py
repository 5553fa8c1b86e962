"""What a launcher is asked to start, and what a worker is asked to do."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run to launch. Carries no e-mail: the account is the name of its cookies file."""

    name: str
    task_id: int
    attempt: int
    course_url: str
    cookies_name: str

    def variables(self) -> dict[str, str]:
        """What the worker's environment says of the run, whatever launches it."""
        return {
            "ENROLLGATE_TASK_ID": str(self.task_id),
            "ENROLLGATE_ATTEMPT": str(self.attempt),
            "ENROLLGATE_COURSE_URL": self.course_url,
            "ENROLLGATE_COOKIES_NAME": self.cookies_name,
        }


@dataclass(frozen=True, slots=True)
class DriveAccess:
    """How a `drive:` destination is reached. Names the credentials' file, never its content."""

    endpoint: str = "https://www.googleapis.com/"
    credentials: Path | None = None
    """A service account's key or a user's login; None: the workload's own identity."""
    subject: str | None = None
    """The user that a service account with domain-wide delegation acts for."""
    chunk_size: int = 8 * 2**20
    """Bytes, a multiple of 256 KiB."""


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """Everything one try of a run needs to know. Built by the CLI from environment and options."""

    task_id: int
    attempt: int
    try_number: int
    """Counts from 1."""
    max_tries: int
    course_url: str
    cookies_dir: Path | None
    cookies_name: str
    downloader: str
    """`yt-dlp` or `command`."""
    download_command: tuple[str, ...]
    """The argv template of the `command` downloader, with `{course_url}` and `{output_dir}`."""
    destination: str
    """`directory:/path` or `drive:<folder id>`."""
    allowed_hosts: tuple[str, ...]
    scratch_dir: Path
    """Survives a try of the same run, so that partial files are resumed."""
    scratch_limit: int
    """Bytes that downloaded but undelivered files may take; one file larger than that still passes, alone."""
    report_path: Path
    """Where the report goes (Kubernetes: the termination message)."""
    progress_path: Path | None
    """Where the progress is kept for `enrollgate status`, if anywhere."""
    drive: DriveAccess = DriveAccess()
    downloads: int = 2
    """Items downloaded at the same time, at most."""
    uploads: int = 2
    """Items delivered at the same time, at most."""
    download_rate: int | None = None
    """Bytes per second of all downloads together; None: no limit."""
    upload_rate: int | None = None
    """Likewise for deliveries."""
    stop_grace: float = 30.0
    """Seconds from being asked to stop until being killed."""
