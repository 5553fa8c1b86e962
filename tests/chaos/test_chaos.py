"""Everything dies, freezes and changes its mind at random, with real processes and a real MariaDB.

One seed decides what happens; how processes interleave is up to the machine. Once the faults have
stopped, everything must come to rest, and the promises are checked from outside.

    make chaos                                     # 200 tasks, a new seed
    ENROLLGATE_CHAOS_SEED=7 ENROLLGATE_CHAOS_TASKS=20 pytest -s tests/chaos
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pymysql
import pytest
from sqlalchemy import make_url
from tests.chaos.course_site import WatchfulSite
from tests.chaos.delivered import read_directory, read_drive
from tests.chaos.faults import DETAILS, DRIVE_FAULTS, Machine
from tests.chaos.invariants import (
    check_all_files,
    check_delivered,
    check_ends,
    check_faults,
    check_requests,
    check_writes,
)
from tests.chaos.node import REFUSAL, UNUSUAL, WAITING, Node
from tests.databases.pair import replicated_pair
from tests.databases.server import fresh_database
from tests.drive_emulator import DriveEmulator, Faults
from tests.e2e.operator_process import OperatorProcess
from tests.small_disk import small_disk

from enrollgate.database import migrate, open_database

# The seed and the size of the short form, which is one of the tests of `make test`.
SEED = int(os.environ.get("ENROLLGATE_CHAOS_SEED") or 1)
TASKS = int(os.environ.get("ENROLLGATE_CHAOS_TASKS") or 20)
# Seconds between two steps. A third of the steps adds a task.
PACE = 0.3
# The share of steps in which something fails.
FAULTS = 0.4
# With so many tasks, every fault must happen.
ALL_FAULTS_FROM = 200


class Chaos:
    """One machine, one Node.js and the seed's decisions."""

    def __init__(self, machine: Machine, node: Node, random: Random) -> None:
        self.machine = machine
        self.node = node
        self.random = random
        self.started = time.monotonic()

    def report(self, what: str) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {what}", flush=True)

    def run(self, tasks: int) -> None:
        """Let Node.js write and faults happen until so many tasks were added."""
        machine, random = self.machine, self.random
        kinds = machine.faults
        faults = list[Callable[[Random], str]]()
        for step in range(3 * tasks):
            machine.step()
            # Decided whether or not it can be done, so that a seed always decides the same.
            decisions = Random(random.random())
            if not machine.is_frozen(machine.database_pid):
                with suppress(pymysql.err.OperationalError):
                    self._write(step, decisions)
            if random.random() < FAULTS:
                # As cards are dealt: each kind comes before one comes again.
                faults = faults or random.sample(kinds, len(kinds))
                decision = random.random()
                for fault in reversed(faults):
                    what = machine.hit(fault, Random(decision))
                    if what is not None:
                        faults.remove(fault)
                        self.report(f"{fault.__name__}: {what}")
                        break  # one that has nothing to hit now comes later
            time.sleep(PACE)

    def _write(self, step: int, random: Random) -> None:
        """Do what Node.js does in one step: every third time it adds a task."""
        newest = step // 3 + 1
        task = newest if step % 3 == 0 else random.randint(max(1, newest - 8), newest)
        status = random.choice([*WAITING, "enrolled", "enrolled"])
        change = random.random()
        if task not in self.node.wanted:
            self.node.add(task, status)
        elif change < 0.06:
            self.node.delete(task)
        elif change < 0.12:
            self.node.replace(task, status, random)
        elif change < 0.18:
            self.node.correct(task, random)
        elif change < 0.26:
            self.node.refuse(task)
        elif change < 0.275:
            self.node.accept_all()
        elif change < 0.45:
            self.node.flip(task, random)
        else:  # what Node.js does most: an enrollment has finished
            self.node.write_status(task, "enrolled")

    def come_to_rest(self) -> None:
        """End the faults, and wait until nothing is open or running."""
        self.machine.calm()
        self.node.accept_all()
        self.report("the faults are over")
        self._wait_until_quiet()

    def complete_a_task_with_each_operator(self) -> list[int]:
        """Let each operator work alone, so that each destination gets a course. Returns them."""
        healthy = list[int]()
        for operator in self.machine.operators:
            self.machine.leave_alone(operator)
            healthy.append(max(self.node.wanted, default=0) + 1)
            self.node.add(healthy[-1], "enrolled")
            self._wait_until_quiet()
        return healthy

    def _wait_until_quiet(self) -> None:
        def watch() -> tuple[int, int]:
            self.machine.step()
            return len(self.machine.site.log), len(self.machine.drive.requests)

        self.node.wait_until_quiet(watch)
        self.report("everything is quiet")

    def count_faults(self, log: str) -> dict[str, int]:
        """Return how often each fault has happened, 0 if it never has.

        What a fault does to others is counted where they see it: in the log of the operators, in
        that of the site, and by the Drive.
        """
        machine, node = self.machine, self.node
        at_drive = Counter(what.partition(" ")[2].strip() for what in machine.drive.faults.happened)
        refused = sum(request.status == 503 for request in machine.site.log)
        return {
            **{kind.__name__: machine.done[kind.__name__] for kind in machine.faults},
            **{what: machine.done[what] for what in DETAILS},
            **{f"Node.js: {what}": node.done[what] for what in UNUSUAL},
            **{f"Drive: {kind}": at_drive[kind] for kind in DRIVE_FAULTS},
            "site: requests answered with 503": refused,
            "database: rows refused to an operator": log.count(REFUSAL),
        }


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    random, site = Random(SEED), WatchfulSite(rate=60_000)
    with (
        replicated_pair() as databases,
        fresh_database(databases.url("")) as url,
        site.serving(),
        small_disk(tmp_path / "disk", 65_536) as disk,
        DriveEmulator(faults=Faults(seed=SEED), rate=200_000) as drive,
    ):
        (cookies := tmp_path / "cookies").mkdir()
        node = Node(url, site, cookies)
        node.create_tables()
        with closing(open_database(make_url(url))) as database:
            migrate(database)
        node.create_operator()
        (login := tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
        places = {
            # Two that share a work directory, and one in another place, which starts only while
            # no run is live here. A task goes to the destination of the operator that claims it.
            "first": ("here", f"directory:{disk / 'courses'}"),
            "second": ("here", f"drive:{drive.store.root}"),
            "third": ("elsewhere", f"drive:{drive.store.root}"),
        }
        operators = []
        for name, (work_dir, destination) in places.items():
            (folder := tmp_path / name).mkdir()
            operators.append(
                OperatorProcess(
                    folder,
                    node.operator_url,
                    site,
                    ENROLLMENT_TIMEOUT="15",
                    STOP_GRACE="5",
                    WORK_DIR=str(disk / work_dir),
                    DESTINATION=destination,
                    DRIVE_ENDPOINT=drive.url,
                    DRIVE_CREDENTIALS=str(login),
                    COOKIES_DIR=str(cookies),
                )
            )
        machine = Machine(operators, databases, site, disk, drive)
        try:
            yield Chaos(machine, node, random)
        finally:
            machine.kill_all()


@pytest.mark.timeout(600 + 10 * TASKS)
def test_promises_hold_when_everything_dies_at_random(chaos: Chaos) -> None:
    print(f"ENROLLGATE_CHAOS_SEED={SEED} ENROLLGATE_CHAOS_TASKS={TASKS}", flush=True)
    node, machine = chaos.node, chaos.machine
    others = "SELECT * FROM download_tasks WHERE id > 900000"
    untouched = node.query(others)
    chaos.run(TASKS)
    chaos.come_to_rest()
    healthy = chaos.complete_a_task_with_each_operator()

    machine.stop()
    log = "".join(operator.log for operator in machine.operators)
    history = node.history()
    reasons = defaultdict[int, list[str | None]](list)
    for task, reason in node.query("SELECT task_id, reason FROM enrollgate_runs"):
        reasons[int(str(task))].append(None if reason is None else str(reason))
    reported = defaultdict[int, list[str]](list)
    for task, place in node.query(
        "SELECT task_id, destination_url FROM enrollgate_runs WHERE outcome = 'succeeded'"
    ):
        reported[int(str(task))].append(str(place))
    destinations = read_directory(machine.disk / "courses"), read_drive(machine.drive.store)
    completed = node.completed()
    courses = [wanted.course for wanted in completed]
    shares = [len(folders) - 1 for folders in destinations]
    chaos.report(f"{len(completed)} completed, {len(machine.site.log)} requests, folders {shares}")
    faults = chaos.count_faults(log)
    print("\n".join(f"{times:6}  {what}" for what, times in faults.items()), flush=True)
    broken = [
        *machine.site.violations,
        *check_writes(history),
        *check_ends(history, dict(reasons)),
        *check_delivered(courses, destinations, reported),
        *(
            wrong
            for folders in destinations
            for wrong in check_all_files(node.all_courses(), folders)
        ),
        *check_requests(completed, machine.site.log),
        *(check_faults(faults) if TASKS >= ALL_FAULTS_FROM else ()),
        *(f"still running: {process}" for process in machine.runs()),
        *(f"left behind: {path}" for path in machine.leftovers()),
    ]
    if broken:
        print(log)
        pytest.fail("\n".join([f"ENROLLGATE_CHAOS_SEED={SEED}", *broken]), pytrace=False)
    assert node.query(others) == untouched
    assert {course.task_id for course in courses} >= set(healthy)
    assert min(shares) > 0, "each destination has got courses"
    assert "@example.com" not in log and "TOPSECRET" not in log
