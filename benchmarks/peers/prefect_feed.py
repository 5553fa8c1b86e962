"""Create a flow run in Prefect for every enrolled row, since Prefect reads no tables.

The row's id is the idempotency key, so a row never gets two flow runs.

Usage: python -m benchmarks.peers.prefect_feed URL CONCURRENCY
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os import environ

import pymysql
import urllib3
from sqlalchemy import make_url

_INTERVAL = 1.0


def main() -> None:
    url, concurrency = sys.argv[1], int(sys.argv[2])
    address = make_url(environ["ENROLLGATE_DATABASE_URL"])
    database = pymysql.connect(**address.translate_connect_args(username="user"), autocommit=True)
    http = urllib3.PoolManager(maxsize=concurrency)
    created = set[int]()

    def create(task: int) -> int:
        body = {
            "name": f"task-{task}",
            "idempotency_key": str(task),
            "job_variables": {"task": str(task)},
            "state": {"type": "SCHEDULED"},
        }
        answer = http.request("POST", url, json=body, timeout=60)
        assert answer.status in (200, 201), answer.data
        return task

    with ThreadPoolExecutor(concurrency) as pool, database.cursor() as cursor:
        while True:
            began = time.monotonic()
            cursor.execute("SELECT id FROM download_tasks WHERE status = 'enrolled'")
            created.update(pool.map(create, {task for (task,) in cursor} - created))
            time.sleep(max(0.0, _INTERVAL - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
