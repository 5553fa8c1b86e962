"""Print the Job that every system creates: the operator's own, with TASK in place of a task's id.

It is a program, since it reads the operator's settings from the environment as the operator does.
"""

import json
import threading
from random import Random

from enrollgate.control.wiring import build_job_settings
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes.api import connect
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.settings.operator import Settings

# No real task has this id.
TASK = 987_654_321


def main() -> None:
    settings = Settings()
    _, namespace = connect(random=Random(1), sleep=threading.Event().wait, connections=1)
    order = RunOrder(
        f"{settings.installation}-{TASK}-1",
        TASK,
        1,
        "https://courses.example.com/1",
        "cookies.txt",
        "0123456789abcdef",
    )
    print(json.dumps(build_job(order, build_job_settings(settings, namespace))))


if __name__ == "__main__":
    main()
