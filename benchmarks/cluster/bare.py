"""The bare loop: creates the Jobs that the operator would create, with the same concurrency.

It prints when it began, by the clock that all processes of a machine share (CLOCK_MONOTONIC).
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

from enrollgate.control.wiring import build_job_settings
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes.api import connect
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.settings.operator import Settings


def main() -> None:
    settings = Settings()
    api, namespace = connect(random=Random(1), sleep=threading.Event().wait, connections=20)
    common = build_job_settings(settings, namespace)

    def create(task: int) -> None:
        order = RunOrder(
            f"{settings.installation}-{task}-1",
            task,
            1,
            "https://courses.example.com/1",
            "cookies.txt",
        )
        api.request(
            "POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", body=build_job(order, common)
        )

    print(time.monotonic())
    with ThreadPoolExecutor(settings.kubernetes.create_concurrency) as pool:
        list(pool.map(create, range(1, int(sys.argv[1]) + 1)))


if __name__ == "__main__":
    main()
