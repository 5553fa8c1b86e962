"""The order that a launcher gets to start one run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run to launch.

    It has no e-mail address: the name of the cookies file stands for the account.
    """

    name: str
    task_id: int
    run_number: int
    course_url: str
    cookies_name: str

    def variables(self) -> dict[str, str]:
        """Return the worker's environment variables that describe the run, for every launcher."""
        return {
            "ENROLLGATE_TASK_ID": str(self.task_id),
            "ENROLLGATE_RUN_NUMBER": str(self.run_number),
            "ENROLLGATE_COURSE_URL": self.course_url,
            "ENROLLGATE_COOKIES_NAME": self.cookies_name,
        }
