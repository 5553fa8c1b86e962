"""A long queue: what the order of launches costs, and what the limits cost.

The accounts take turns, so the queue is ranked. These figures show that a free slot does not wait
for that, and that limits cost a burst next to nothing.
"""

import statistics

from tests.world import MemoryLauncher

from benchmarks.backlog import TABLES, connect, create_backlog, discard_logs, execute, measure_ms
from enrollgate.control.reconciler import Reconciler
from enrollgate.database import Database, claims
from enrollgate.domain.policy import Policy

ACCOUNTS = 1000
SLOTS = 50
ROUNDS = 9
LIMITS_ROUNDS = 14


def measure_queue(name: str, url: str, rows: int, enrolled: int) -> list[dict[str, object]]:
    """Measure the look and the ranking, with `enrolled` of `rows` tasks in the queue.

    Then let runs end, SLOTS at a time, and count the statements for each launched one.
    """
    discard_logs()
    with connect(url) as database:
        _fill(database, rows, enrolled)
        looks = [
            measure_ms(lambda: claims.look(database, TABLES, installation="bench", limit=SLOTS + 1))
            for _ in range(ROUNDS)
        ]
        ranks = [
            measure_ms(lambda: claims.rank(database, TABLES, installation="bench", limit=1000))
            for _ in range(ROUNDS)
        ]
        launcher = MemoryLauncher()
        reconciler = _build(database, launcher, Policy(max_concurrent_runs=SLOTS))
        reconciler.reconcile()
        while reconciler.reconcile().more:  # every task is tracked
            pass
        refills, statements = list[float](), list[float]()
        for _ in range(2 * ROUNDS):
            names = list(launcher.live)
            for each in names:
                launcher.succeed(each)
            reconciler.reconcile(names)
            before = database.statements
            refills.append(measure_ms(reconciler.look))
            statements.append((database.statements - before) / SLOTS)
        return [
            {
                "database": name,
                "rows": rows,
                "enrolled": enrolled,
                "look_ms": statistics.median(looks),
                "rank_ms": statistics.median(ranks),
                "refill_p50_ms": statistics.median(refills),
                "refill_max_ms": max(refills),
                "statements_per_run": statistics.median(statements),
            }
        ]


def measure_limits(name: str, url: str, tasks: int) -> list[dict[str, object]]:
    """Compare a pass over a burst of `tasks` rows with and without limits, in turns."""
    discard_logs()
    policies = {
        "none": Policy(max_concurrent_runs=tasks),
        "all": Policy(
            max_concurrent_runs=tasks, max_runs_per_account=tasks, max_runs_per_host=tasks
        ),
    }
    times: dict[str, list[float]] = {limits: [] for limits in policies}
    with connect(url) as database:
        for turn in range(LIMITS_ROUNDS):
            # In turns, and each first as often: so a noisy moment affects both.
            for limits, policy in sorted(policies.items(), reverse=bool(turn % 2)):
                _fill(database, tasks * 10, tasks)
                launcher = MemoryLauncher()
                times[limits].append(measure_ms(_build(database, launcher, policy).reconcile))
                assert len(launcher.orders) == tasks
    without, with_limits = (statistics.median(times[limits]) for limits in ("none", "all"))
    return [
        {
            "database": name,
            "enrolled": tasks,
            "without_limits_ms": without,
            "with_limits_ms": with_limits,
            "relative": with_limits / without,
        }
    ]


def _fill(database: Database, rows: int, enrolled: int) -> None:
    create_backlog(database, rows, enrolled, index=True, status="enrolled")
    step = rows // enrolled
    number = f"(id / {step}) % {ACCOUNTS}"
    email = f"'a' || ({number}) || '@example.com'"
    if not database.is_sqlite:
        email = f"CONCAT('a', FLOOR(id / {step}) % {ACCOUNTS}, '@example.com')"
    execute(database, f"UPDATE download_tasks SET email = {email} WHERE status = 'enrolled'")


def _build(database: Database, launcher: MemoryLauncher, policy: Policy) -> Reconciler:
    return Reconciler(database, TABLES, launcher, policy, installation="bench")
