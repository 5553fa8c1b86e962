"""The choice of the tasks to launch: limits are kept to, and nobody starves."""

from collections import Counter
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from enrollgate.domain.hold import Hold, HoldKind, Scope
from enrollgate.domain.queue import LiveRuns, OpenTask, RunLimits, choose

NOW = datetime(2026, 1, 1)  # noqa: DTZ001 -- UTC, as in the database
names = st.sampled_from(["a", "b", "c"])
tasks = st.lists(st.tuples(names, names), max_size=30).map(
    lambda pairs: [
        OpenTask(number, None, None, 0, account, host)
        for number, (account, host) in enumerate(pairs)
    ]
)
holds = st.lists(
    st.builds(
        Hold,
        kind=st.sampled_from(HoldKind),
        scope=st.sampled_from(Scope),
        subject=names,
        reason=st.just("CookiesExpired"),
        opened_at=st.just(NOW),
        allowed=st.integers(0, 4),
        probe_at=st.one_of(
            st.none(), st.sampled_from([NOW - timedelta(1), NOW, NOW + timedelta(1)])
        ),
    ),
    max_size=3,
).map(
    lambda found: tuple(
        Hold(**{**{name: getattr(hold, name) for name in hold.__slots__}, "hold_id": number})
        for number, hold in enumerate(found, 1)
    )
)
counts = st.dictionaries(names, st.integers(0, 3)).map(Counter)


@given(tasks, counts, counts, holds, st.integers(0, 3), st.integers(0, 3), st.integers(0, 10))
def test_choice_keeps_to_every_limit_and_skips_nobody_without_need(
    candidates: list[OpenTask],
    accounts: Counter[str],
    hosts: Counter[str],
    open_holds: tuple[Hold, ...],
    per_account: int,
    per_host: int,
    slots: int,
) -> None:
    limits = RunLimits(per_account, per_host, open_holds)
    chosen = choose(candidates, LiveRuns(NOW, 0, accounts, hosts), limits, slots)
    assert len(chosen) <= slots
    assert chosen == [task for task in candidates if task in chosen]

    def is_full(task: OpenTask) -> bool:
        """Whether one more run of this task would break a limit."""
        mine = [other for other in chosen if other is not task]
        of_account = accounts[task.account] + sum(o.account == task.account for o in mine)
        of_host = hosts[task.host] + sum(o.host == task.host for o in mine)
        return bool(
            (per_account and of_account >= per_account)
            or (per_host and of_host >= per_host)
            or any(
                sum(hold.covers(o.account, o.host) for o in mine) >= hold.live_limit(NOW)
                for hold in open_holds
                if hold.covers(task.account, task.host)
            )
        )

    assert not any(map(is_full, chosen))
    if len(chosen) < slots:
        assert all(is_full(task) for task in candidates if task not in chosen)
