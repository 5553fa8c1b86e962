"""The order that a launcher gets to start one run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run to launch.

    It has no e-mail address: the name of the cookies file stands for the account. `claim_id` is
    the claim's: a run of this name with another one is not this run.
    """

    name: str
    task_id: int
    run_number: int
    course_url: str
    cookies_name: str
    claim_id: str = ""

    def variables(self) -> dict[str, str]:
        """Return the worker's environment variables that describe the run, for every launcher."""
        return {
            "ENROLLGATE_TASK_ID": str(self.task_id),
            "ENROLLGATE_RUN_NUMBER": str(self.run_number),
            "ENROLLGATE_COURSE_URL": self.course_url,
            "ENROLLGATE_COOKIES_NAME": self.cookies_name,
        }
