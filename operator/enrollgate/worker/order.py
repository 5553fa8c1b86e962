"""What a worker is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from enrollgate.settings.worker import WorkerSettings


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """One attempt of one run. Built by the command `work` from environment and options."""

    task_id: int
    run_number: int
    attempt: int
    """Counts from 1."""
    max_attempts: int
    course_url: str
    cookies_name: str
    """The account's file in the cookies folder."""
    scratch_dir: Path
    """Kept between the attempts of a run, so that partial files are resumed."""
    report_path: Path
    """Where the report goes (Kubernetes: the termination message)."""
    progress_path: Path | None
    """Where the progress is kept for `enrollgate status`, if anywhere."""
    settings: WorkerSettings

    @property
    def attempt_tag(self) -> str:
        """The tag that people grep for: `[ATTEMPT 1/3]`."""
        return f"[ATTEMPT {self.attempt}/{self.max_attempts}]"
