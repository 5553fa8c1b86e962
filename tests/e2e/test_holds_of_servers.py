"""Holds that a real server opens: nginx asks for a login (`auth_basic`), or limits (`limit_req`).

The operator and its workers are processes, as users run them; nothing here writes a report.
"""

from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.operator_process import OperatorProcess, wait_until
from tests.webservers.members import start_members_site
from tests.webservers.worker import with_hosts

from enrollgate.domain.account import cookies_name

COUNT = "SELECT status, COUNT(*) FROM download_tasks GROUP BY status"


def wait_for(operator: OperatorProcess, statement: str, *rows: tuple[object, ...]) -> None:
    """Wait until a query returns these rows, in any order."""
    wait_until(
        lambda: Counter(operator.sql(statement)) == Counter(rows),
        lambda: f"{statement}: {operator.sql(statement)}\n{operator.log}",
    )


def add(operator: OperatorProcess, task: int, account: str) -> None:
    operator.sql(
        "INSERT INTO download_tasks (id, status, email, course_url) "
        "VALUES (:id, 'enrolled', :email, :url)",
        id=task,
        email=account,
        url=operator.site.course_url(""),
    )


@pytest.mark.usefixtures("webservers")
def test_account_that_nginx_refuses_is_held_until_its_cookies_change(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = "ada@example.com", "bob@example.com"
    with start_members_site(tmp_path / "nginx") as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.server.authority))
        operator = OperatorProcess(
            *(tmp_path, sqlite_url, site), HOLD_PAUSE="300", MAX_CONCURRENT_RUNS="2"
        )
        operator.prefix = with_hosts(tmp_path, site.hosts_line)
        operator.create_table()
        assert operator.command("migrate").returncode == 0
        try:
            cookies = tmp_path / "cookies" / cookies_name(ada)
            cookies.write_text(site.cookies_file("old"))
            operator.write_cookies(bob)
            for task in range(1, 6):
                add(operator, task, ada)
            operator.start()
            held = ("account", "CookiesExpired")
            wait_for(operator, "SELECT scope, reason FROM enrollgate_holds WHERE active = 1", held)
            for task in (6, 7):
                add(operator, task, bob)
            wait_for(operator, COUNT, ("failed", 1), ("enrolled", 4), ("completed", 2))
            shown = operator.command("holds").stdout
            assert "CookiesExpired" in shown and "4 tasks" in shown, shown
            cookies.write_text(site.cookies_file("ada"))
            wait_for(operator, COUNT, ("failed", 1), ("completed", 6))
            closed = operator.sql("SELECT probes, active FROM enrollgate_holds")
            assert closed == [(0, None)], "closed by the cookies, without a probe"
        finally:
            operator.stop_all()


@pytest.mark.usefixtures("webservers")
@pytest.mark.parametrize(("status", "reason"), [(429, "RateLimited"), (503, "SiteError")])
def test_host_that_nginx_limits_is_held_until_a_probe_succeeds(
    status: int, reason: str, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_members_site(tmp_path / "nginx", limit_status=status) as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.server.authority))
        operator = OperatorProcess(
            *(tmp_path, sqlite_url, site),
            HOLD_PAUSE="1",
            HOLD_LONGEST_PAUSE="1",
            MAX_CONCURRENT_RUNS="2",
        )
        operator.prefix = with_hosts(tmp_path, site.hosts_line)
        operator.create_table()
        assert operator.command("migrate").returncode == 0
        site.limit(is_on=True)
        try:
            for task in range(1, 7):
                operator.write_cookies(f"account{task}@example.com")
                add(operator, task, f"account{task}@example.com")
            operator.start()
            held = ("host", site.host.partition(":")[0], reason)
            wait_for(
                operator,
                "SELECT scope, subject, reason FROM enrollgate_holds WHERE active = 1",
                held,
            )
            # A probe run fails, and its task stays enrolled: 3 in a row have opened the hold.
            probed = "SELECT 1 FROM enrollgate_holds WHERE probes > 0"
            wait_for(operator, probed, (1,))
            wait_for(operator, COUNT, ("failed", 3), ("enrolled", 3))
            said = operator.sql(
                "SELECT reason, hold_scope, message FROM enrollgate_task_status "
                "WHERE state = 'held'"
            )
            assert {row[:2] for row in said} == {(reason, "host")}, said
            assert all(f"HTTP {status}" in str(row[2]) for row in said), said
            site.limit(is_on=False)
            wait_for(operator, COUNT, ("failed", 3), ("completed", 3))
            assert operator.sql("SELECT active FROM enrollgate_holds") == [(None,)]
        finally:
            operator.stop_all()
