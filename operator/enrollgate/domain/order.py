"""What a launcher is asked to start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run to launch. Carries no e-mail: the account is the name of its cookies file."""

    name: str
    task_id: int
    run_number: int
    course_url: str
    cookies_name: str

    def variables(self) -> dict[str, str]:
        """What the worker's environment says of the run, whatever launches it."""
        return {
            "ENROLLGATE_TASK_ID": str(self.task_id),
            "ENROLLGATE_RUN_NUMBER": str(self.run_number),
            "ENROLLGATE_COURSE_URL": self.course_url,
            "ENROLLGATE_COOKIES_NAME": self.cookies_name,
        }
