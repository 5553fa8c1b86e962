"""What a worker is asked to do.

The command `work` builds the order from environment variables and options.
"""

from dataclasses import dataclass
from pathlib import Path

from enrollgate.settings.worker import WorkerSettings


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """One attempt of one run."""

    task_id: int
    run_number: int
    attempt: int  # counts from 1
    max_attempts: int
    course_url: str
    cookies_name: str  # the account's file in the cookies folder
    scratch_dir: Path  # the attempts of a run share it, so that partial files are resumed
    report_path: Path  # in Kubernetes: the termination message
    progress_path: Path | None  # the file that `enrollgate status` reads, if there is one
    settings: WorkerSettings

    @property
    def attempt_tag(self) -> str:
        """Return the tag that people search the log for: `[ATTEMPT 1/3]`."""
        return f"[ATTEMPT {self.attempt}/{self.max_attempts}]"
