"""Holds: one broken account, host or destination does not burn the tasks that wait for it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from tests.world import World

from enrollgate.control.reconciler import Reconciler
from enrollgate.domain.account import account_sha256
from enrollgate.domain.holds import SCOPES
from enrollgate.domain.observation import Phase
from enrollgate.domain.policy import HoldPolicy, Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

ADA, BOB = "ada@example.com", "bob@example.com"
HOLDS = HoldPolicy(threshold=3, pause=300, longest_pause=3600, limit=604_800, enough=10)
POLICY = Policy(enrollment_timeout=300, max_concurrent_runs=10, holds=HOLDS)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url, POLICY)) as world:
        yield world


def open_holds(world: World) -> list[tuple[str, str, int, int]]:
    with world.database.autocommit() as connection:
        rows = connection.execute(
            text(
                "SELECT scope, reason, allowed, probes FROM enrollgate_holds WHERE active = 1 "
                "ORDER BY id"
            )
        ).all()
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def fail(world: World, task: int, reason: Reason, *, run: int = 1) -> None:
    world.launcher.fail(f"test-{task}-{run}", reason)
    world.reconcile()


def statuses(world: World) -> Counter[str]:
    with world.database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT status, count(*) FROM download_tasks GROUP BY status")
        ).all()
    return Counter({row[0]: row[1] for row in rows})


def settle(world: World, outcome: Callable[[str], Reason | None], *, passes: int = 200) -> None:
    """Let runs end, and time pass, until nothing happens any more."""
    for _ in range(passes):
        world.reconcile()
        if not world.launcher.live:
            world.clock.advance(60)
        for name in world.launcher.live:
            reason = outcome(name)
            if reason is None:
                world.launcher.succeed(name)
            else:
                world.launcher.fail(name, reason)
    world.reconcile()


@pytest.mark.parametrize(
    ("reason", "scope"),
    [
        (Reason.COOKIES_EXPIRED, "account"),
        (Reason.COOKIES_MISSING, "account"),
        (Reason.DESTINATION_QUOTA, "destination"),
        (Reason.DESTINATION_AUTH, "destination"),
        (Reason.DESTINATION_NOT_FOUND, "destination"),
        (Reason.DESTINATION_RATE_LIMITED, "destination"),
    ],
)
def test_failure_that_speaks_for_others_holds_them_and_fails_only_its_task(
    world: World, reason: Reason, scope: str
) -> None:
    first = world.add("enrolled", ADA)
    world.reconcile()
    others = [world.add("enrolled", ADA) for _ in range(5)]
    fail(world, first, reason)
    assert world.status(first) == "failed"
    assert open_holds(world) == [(scope, reason.value, 0, 0)]
    assert world.launcher.live == []
    assert {world.status(task) for task in others} == {"enrolled"}


@pytest.mark.parametrize("reason", SCOPES)
def test_held_task_names_a_remedy_that_fits_it(world: World, reason: Reason) -> None:
    first = [world.add("enrolled") for _ in range(HOLDS.threshold)]
    world.reconcile()
    held = world.add("enrolled")
    for task in first:
        world.launcher.fail(f"test-{task}-1", reason)
    for _ in range(2):
        world.reconcile()
    with world.database.autocommit() as connection:
        (remedy,) = connection.execute(
            text(
                "SELECT remedy FROM enrollgate_holds JOIN enrollgate_tasks ON hold_id = id "
                "WHERE task_id = :task"
            ),
            {"task": held},
        ).one()
    assert remedy and "set `enrolled`" not in remedy, remedy


def test_another_account_is_not_held(world: World) -> None:
    first = world.add("enrolled", ADA)
    world.reconcile()
    fail(world, first, Reason.COOKIES_EXPIRED)
    held, free = world.add("enrolled", f"  {ADA.upper()} "), world.add("enrolled", BOB)
    world.look()
    assert world.launcher.live == [f"test-{free}-1"]
    assert world.status(held) == "enrolled"


@pytest.mark.parametrize(
    ("reason", "scope"),
    [
        (Reason.ACCESS_DENIED, "account"),
        (Reason.RATE_LIMITED, "host"),
        (Reason.BOT_CHECK, "host"),
        (Reason.SITE_ERROR, "host"),
        (Reason.NETWORK_ERROR, "host"),
        (Reason.DISK_FULL, "installation"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_failure_that_may_be_of_one_course_must_be_repeated(
    world: World, reason: Reason, scope: str, at_once: bool
) -> None:
    tasks = [world.add("enrolled", ADA) for _ in range(3)]
    world.reconcile()
    for task in tasks[:2]:
        fail(world, task, reason)
    assert open_holds(world) == []
    if at_once:
        more = world.add("enrolled", ADA)
        world.reconcile()
        world.launcher.fail(f"test-{more}-1", reason)
    fail(world, tasks[2], reason)
    assert open_holds(world) == [(scope, reason.value, 0, 0)]


def test_one_task_that_fails_again_and_again_opens_no_hold(world: World) -> None:
    task = world.add("enrolled")
    for run in range(1, 6):
        world.set(task, "enrolled")
        world.reconcile()
        fail(world, task, Reason.ACCESS_DENIED, run=run)
    assert open_holds(world) == []


def test_success_between_failures_opens_no_hold(world: World) -> None:
    for _ in range(4):
        bad = [world.add("enrolled") for _ in range(2)]
        good = world.add("enrolled")
        world.reconcile()
        for task in bad:
            fail(world, task, Reason.ACCESS_DENIED)
        world.launcher.succeed(f"test-{good}-1")
        world.reconcile()
    assert open_holds(world) == []


def test_probe_that_fails_leaves_its_task_enrolled_and_doubles_the_pause(world: World) -> None:
    first, second = world.add("enrolled"), world.add("enrolled")
    world.policy = replace(POLICY, max_concurrent_runs=1)
    world.restart()
    world.reconcile()
    fail(world, first, Reason.COOKIES_EXPIRED)
    pauses = list[int]()
    for probe in range(1, 6):
        waited = 0
        while not world.launcher.live:
            world.clock.advance(60)
            waited += 60
            world.restart()
            world.reconcile()
        pauses.append(waited)
        assert world.launcher.live == [f"test-{second}-{probe}"]
        fail(world, second, Reason.COOKIES_EXPIRED, run=probe)
        assert world.status(second) == "enrolled"
    assert pauses == [300, 600, 1200, 2400, 3600]
    assert open_holds(world) == [("account", "CookiesExpired", 0, 5)]


def test_retry_after_of_the_site_delays_the_probe(world: World) -> None:
    tasks = [world.add("enrolled") for _ in range(3)]
    world.reconcile()
    for task in tasks:
        report = Report(Reason.RATE_LIMITED, "too many requests", retry_after=7200)
        world.launcher.end(f"test-{task}-1", Phase.FAILED, report)
        world.reconcile()
    world.add("enrolled")
    world.clock.advance(7100)
    world.reconcile()
    assert world.launcher.live == []
    world.clock.advance(200)
    world.reconcile()
    assert len(world.launcher.live) == 1


def test_limit_of_a_day_is_probed_tomorrow(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    world.add("enrolled")
    fail(world, first, Reason.DESTINATION_RATE_LIMITED)
    tomorrow = (world.clock.now + timedelta(days=1)).replace(hour=0, minute=0, second=0)
    world.clock.advance((tomorrow - world.clock.now).total_seconds() - 60)
    world.reconcile()
    assert world.launcher.live == []
    world.clock.advance(120)
    world.reconcile()
    assert len(world.launcher.live) == 1


def test_held_tasks_come_in_growing_steps_after_a_probe_succeeds(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    for _ in range(40):
        world.add("enrolled")
    fail(world, first, Reason.DESTINATION_QUOTA)
    world.clock.advance(300)
    steps = list[int]()
    while statuses(world)["enrolled"]:
        world.reconcile()
        steps.append(len(world.launcher.live))
        for name in world.launcher.live[:1]:
            world.launcher.succeed(name)
    assert steps[:4] == [1, 2, 4, 8]
    assert max(steps) == 10
    assert open_holds(world) == []
    assert statuses(world) == Counter(completed=40, failed=1)


def test_runs_under_way_that_fail_so_keep_their_tasks_and_are_no_probes(world: World) -> None:
    tasks = [world.add("enrolled") for _ in range(5)]
    world.reconcile()
    for task in tasks:
        world.launcher.fail(f"test-{task}-1", Reason.DESTINATION_QUOTA)
    world.reconcile()
    assert statuses(world) == Counter(failed=1, enrolled=4)
    assert open_holds(world) == [("destination", "DestinationQuota", 0, 0)]


def test_probe_that_fails_for_another_reason_fails_and_the_next_one_follows(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    second, third = world.add("enrolled"), world.add("enrolled")
    fail(world, first, Reason.COOKIES_EXPIRED)
    world.clock.advance(300)
    world.reconcile()
    fail(world, second, Reason.COURSE_NOT_FOUND)
    assert world.status(second) == "failed"
    world.clock.advance(300)
    world.reconcile()
    assert world.launcher.live == [f"test-{third}-1"]


def test_opener_stays_enrolled_if_that_is_wanted(database_url: str) -> None:
    policy = replace(POLICY, holds=replace(HOLDS, keeps_opener=True))
    with closing(World(database_url, policy)) as world:
        task = world.add("enrolled")
        world.reconcile()
        fail(world, task, Reason.COOKIES_EXPIRED)
        assert (world.status(task), world.launcher.live) == ("enrolled", [])
        world.clock.advance(300)
        world.reconcile()
        world.launcher.succeed(f"test-{task}-2")
        world.reconcile()
        assert world.status(task) == "completed"


def test_holds_switched_off_open_none(database_url: str) -> None:
    policy = replace(POLICY, holds=replace(HOLDS, is_on=False))
    with closing(World(database_url, policy)) as world:
        first, second = world.add("enrolled"), world.add("enrolled")
        world.reconcile()
        for task in (first, second):
            fail(world, task, Reason.COOKIES_EXPIRED)
        assert (statuses(world), open_holds(world)) == (Counter(failed=2), [])


def test_run_that_cannot_start_holds_the_installation(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    second = world.add("enrolled", BOB)
    world.launcher.stick(f"test-{first}-1")
    world.reconcile()
    world.reconcile()
    assert world.status(first) == "failed"
    assert open_holds(world) == [("installation", "ImagePullBackOff", 0, 0)]
    world.clock.advance(300)
    world.reconcile()
    world.launcher.stick(f"test-{second}-1")
    for _ in range(3):
        world.reconcile()
    assert world.status(second) == "enrolled"
    assert open_holds(world) == [("installation", "ImagePullBackOff", 0, 1)]
    assert world.launcher.live == []


def test_hold_that_lasts_too_long_fails_its_tasks_and_ends(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    held = [world.add("enrolled") for _ in range(3)]
    free = world.add("enrolled", BOB)
    fail(world, first, Reason.COOKIES_EXPIRED)
    for _ in range(400):
        world.clock.advance(3600)
        world.reconcile()
        for name in world.launcher.live:
            if name == f"test-{free}-1":
                world.launcher.succeed(name)
            else:
                world.launcher.fail(name, Reason.COOKIES_EXPIRED)
    assert {world.status(task) for task in held} == {"failed"}
    assert world.status(free) == "completed"
    assert open_holds(world) == []
    last = world.runs(held[0])[-1]
    assert last.reason == "CookiesExpired"


def test_new_cookies_file_closes_the_hold_of_its_account_alone(world: World) -> None:
    cookies = {account_sha256(ADA): "old", account_sha256(BOB): "old"}

    def operator() -> Reconciler:
        return Reconciler(
            world.database,
            world.tables,
            world.launcher,
            world.policy,
            installation="test",
            cookies_sha256=cookies.get,
        )

    world.operator = operator()
    for email in (ADA, BOB):
        task = world.add("enrolled", email)
        world.reconcile()
        fail(world, task, Reason.COOKIES_EXPIRED)
    ada, _bob = world.add("enrolled", ADA), world.add("enrolled", BOB)
    world.reconcile()
    assert world.launcher.live == []
    cookies[account_sha256(ADA)] = "new"
    world.operator = operator()
    world.reconcile()
    assert world.launcher.live == [f"test-{ada}-1"]
    assert len(open_holds(world)) == 1


def test_pause_by_sql_stops_launches_and_ends_by_itself(world: World) -> None:
    world.reconcile()
    world.sql(
        "INSERT INTO enrollgate_holds (installation, scope, opened_by, ends_at) "
        "VALUES ('test', 'installation', 'a test', :ends_at)",
        ends_at=str(world.clock.now + timedelta(hours=1)),
    )
    task = world.add("enrolled")
    assert world.look().launched == 0
    world.reconcile()
    assert open_holds(world) == [("installation", "Paused", 0, 0)]
    assert world.scalar("SELECT count(*) FROM enrollgate_tasks WHERE hold_id IS NOT NULL") == 1
    world.clock.advance(3601)
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-1"]
    world.reconcile()
    assert world.scalar("SELECT count(*) FROM enrollgate_tasks WHERE hold_id IS NOT NULL") == 0


def test_pause_of_a_host_holds_each_spelling_of_it(world: World) -> None:
    world.reconcile()
    world.sql(
        "INSERT INTO enrollgate_holds (installation, scope, subject, opened_by) "
        "VALUES ('test', 'host', 'courses.example.com', 'a test')"
    )
    for url in (
        "https://courses.example.com/a",
        "https://COURSES.example.com:8443/a?next=https://other.example.com/",
        " https://courses.example.com./a",
        "https://courses.example.com?a=b/c#d",
        "https://courses.example.com#https://other.example.com",
    ):
        world.add("enrolled", ADA, url)
    free = [
        world.add("enrolled", ADA, url)
        for url in (
            "https://example.com/https://courses.example.com/",
            "https://other.example.com?x=https://courses.example.com",
        )
    ]
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-1" for task in free]


@pytest.mark.parametrize("subject", ["xn--krs-hoa.example.com", "kürs.example.com"])
def test_pause_of_a_host_in_letters_holds_both_spellings(world: World, subject: str) -> None:
    world.reconcile()
    world.sql(
        "INSERT INTO enrollgate_holds (installation, scope, subject, opened_by) "
        "VALUES ('test', 'host', :subject, 'a test')",
        subject=subject,
    )
    for url in ("https://kürs.example.com/a", "https://xn--krs-hoa.example.com/a"):
        world.add("enrolled", ADA, url)
    free = world.add("enrolled", ADA, "https://kurs.example.com/a")
    for _ in range(2):
        world.look()
        world.reconcile()
    assert world.launcher.live == [f"test-{free}-1"]
    assert world.scalar("SELECT count(*) FROM enrollgate_tasks WHERE hold_id IS NOT NULL") == 2


def test_expired_account_costs_one_task_and_delays_no_other(world: World) -> None:
    """1,000 enrolled rows of 10 accounts, one of which has expired cookies."""
    bad = account_sha256("a0@example.com")
    accounts = dict[int, str]()
    for index in range(1000):
        email = f"a{index % 10}@example.com"
        accounts[world.add("enrolled", email)] = account_sha256(email)
    broken = [True]
    launches = Counter[str]()

    def outcome(name: str) -> Reason | None:
        account = accounts[int(name.split("-")[1])]
        launches[account] += 1
        return Reason.COOKIES_EXPIRED if account == bad and broken[0] else None

    settle(world, outcome, passes=150)
    done = statuses(world)
    assert (done["completed"], done["failed"], done["enrolled"]) == (900, 1, 99)
    probes = open_holds(world)[0][3]
    assert launches[bad] <= 1 + probes + 10  # and those under way when the first one failed
    broken[0] = False
    settle(world, outcome, passes=400)
    assert statuses(world) == Counter(completed=999, failed=1)


def test_full_destination_fails_no_task_but_the_first_across_restarts(database_url: str) -> None:
    """An hour of a full Drive, with two operators that are restarted all the time."""
    with closing(World(database_url, POLICY)) as world:
        for index in range(60):
            world.add("enrolled", f"a{index}@example.com")
        end = world.clock.now + timedelta(hours=1)
        most = 0
        for _ in range(400):
            for operator in (world.new_operator(), world.new_operator()):
                operator.reconcile()
            is_full = world.clock.now < end
            live = world.launcher.live
            most = max(most, len(live))
            for name in live:
                if is_full:
                    world.launcher.fail(name, Reason.DESTINATION_QUOTA)
                else:
                    world.launcher.succeed(name)
            world.clock.advance(30)
        assert statuses(world) == Counter(completed=59, failed=1)
        assert most <= 10


def test_hold_in_a_way_of_another_operator_is_opened_once(world: World) -> None:
    tasks = [world.add("enrolled") for _ in range(2)]
    world.reconcile()
    first, second = world.new_operator(), world.new_operator()
    for task in tasks:
        world.launcher.fail(f"test-{task}-1", Reason.COOKIES_EXPIRED)
    first.reconcile()
    second.reconcile()
    assert len(open_holds(world)) == 1
    assert statuses(world) == Counter(failed=1, enrolled=1)
