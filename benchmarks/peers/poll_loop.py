"""A plain poll loop: what a careful user would write instead of an operator, in about
25 lines.

It uses our client and our concurrency, so that only the way of working differs. Jobs have fixed
names, so a restart creates none twice. It knows no timeouts, failures, limits or restarts.

Usage: python -m benchmarks.peers.poll_loop JOB_TEMPLATE CONCURRENCY
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path
from random import Random

import pymysql
from sqlalchemy import make_url

from enrollgate.launchers.kubernetes.api import ApiError, Json, connect

_INTERVAL = 1.0
_COMPLETE = "UPDATE download_tasks SET status = 'completed' WHERE id = %s AND status = 'enrolled'"


def main() -> None:
    template, concurrency = Path(sys.argv[1]).read_text(), int(sys.argv[2])
    url = make_url(environ["ENROLLGATE_DATABASE_URL"])
    database = pymysql.connect(
        **url.translate_connect_args(username="user"), autocommit=True, charset="utf8mb4"
    )
    api, namespace = connect(random=Random(1), sleep=time.sleep, connections=concurrency + 1)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    launched, recorded = set[int](), set[str]()

    def create(task: int) -> int:
        try:
            api.request("POST", jobs, body=json.loads(template.replace("{task}", str(task))))
        except ApiError as error:
            if error.status != 409:  # it was created before a restart
                raise
        return task

    def is_complete(job: Json) -> bool:
        return any(each["type"] == "Complete" for each in job["status"].get("conditions", ()))

    with ThreadPoolExecutor(concurrency) as pool, database.cursor() as cursor:
        while True:
            began = time.monotonic()
            cursor.execute("SELECT id FROM download_tasks WHERE status = 'enrolled'")
            launched.update(pool.map(create, {task for (task,) in cursor} - launched))
            for page in api.pages(jobs, query={"fieldSelector": "status.successful=1"}):
                for name in {
                    job["metadata"]["name"] for job in page if is_complete(job)
                } - recorded:
                    cursor.execute(_COMPLETE, name.split("-")[1])
                    recorded.add(name)
            time.sleep(max(0.0, _INTERVAL - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
