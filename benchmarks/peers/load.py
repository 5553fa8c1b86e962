"""What Node.js does in every measurement: rows become `enrolled` one by one, or all at once.

Each function returns the instants of the commits by CLOCK_MONOTONIC, by task.
"""

import time
from dataclasses import dataclass
from random import Random

from sqlalchemy import Connection, text
from tests.cluster.world import ClusterWorld

_URL = "https://courses.example.com/1"
_INSERT = "INSERT INTO download_tasks (status, email, course_url) VALUES (:status, :email, :url)"


@dataclass(frozen=True)
class Load:
    """So many rows: a trickle with random pauses of up to `gap` seconds, or a burst if it is 0."""

    rows: int
    gap: float = 0.0

    @property
    def name(self) -> str:
        return "trickle" if self.gap else f"burst of {self.rows:,}"

    def enroll(self, world: ClusterWorld) -> dict[int, float]:
        """Enroll the rows. The pauses are the same for every system."""
        if not self.gap:
            return enroll_at_once(world, self.rows)
        random = Random(self.rows)
        _, tasks = insert(world, "processing", self.rows)
        committed = {}
        for task in tasks:
            time.sleep(random.uniform(0, self.gap))
            world.set(task, "enrolled")
            committed[task] = time.monotonic()
        return committed


def enroll_at_once(world: ClusterWorld, rows: int) -> dict[int, float]:
    """Insert so many enrolled rows in one commit."""
    committed, tasks = insert(world, "enrolled", rows)
    return dict.fromkeys(tasks, committed)


def insert(world: ClusterWorld, status: str, rows: int) -> tuple[float, list[int]]:
    """Insert so many rows of this status in one commit. Returns its instant, and their ids."""
    values = [{"status": status, "email": "ada@example.com", "url": _URL}] * rows

    def insert_rows(connection: Connection) -> None:
        connection.execute(text(_INSERT), values)

    with world.database.read_transaction() as connection:
        newest = connection.execute(text("SELECT COALESCE(MAX(id), 0) FROM download_tasks"))
        before = int(newest.scalar_one())
    world.database.run_in_transaction(insert_rows)
    committed = time.monotonic()
    with world.database.read_transaction() as connection:
        found = connection.execute(
            text("SELECT id FROM download_tasks WHERE id > :before ORDER BY id"),
            {"before": before},
        )
        return committed, [int(task) for (task,) in found]
