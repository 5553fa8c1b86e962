"""A hold that a real server opens: nginx asks for a login, by `auth_basic`.

The operator and its workers are processes, as users run them; nothing here writes a report.
"""

from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.operator_process import OperatorProcess, wait_until
from tests.webservers.members import start_members_site
from tests.webservers.worker import with_hosts

from enrollgate.domain.account import cookies_name


def wait_for(operator: OperatorProcess, statement: str, *rows: tuple[object, ...]) -> None:
    """Wait until a query returns these rows, in any order."""
    wait_until(
        lambda: Counter(operator.sql(statement)) == Counter(rows),
        lambda: f"{statement}: {operator.sql(statement)}\n{operator.log}",
    )


@pytest.mark.usefixtures("webservers")
def test_account_that_nginx_refuses_is_held_until_its_cookies_change(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = "ada@example.com", "bob@example.com"
    count = "SELECT status, COUNT(*) FROM download_tasks GROUP BY status"
    with start_members_site(tmp_path / "nginx") as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.server.authority))
        operator = OperatorProcess(
            *(tmp_path, sqlite_url, site), HOLD_PAUSE="300", MAX_CONCURRENT_RUNS="2"
        )
        operator.prefix = with_hosts(tmp_path, site.hosts_line)
        operator.create_table()
        assert operator.command("migrate").returncode == 0

        def add(task: int, account: str) -> None:
            operator.sql(
                "INSERT INTO download_tasks (id, status, email, course_url) "
                "VALUES (:id, 'enrolled', :email, :url)",
                id=task,
                email=account,
                url=site.course_url(""),
            )

        try:
            cookies = tmp_path / "cookies" / cookies_name(ada)
            cookies.write_text(site.cookies_file("old"))
            operator.write_cookies(bob)
            for task in range(1, 6):
                add(task, ada)
            operator.start()
            held = ("account", "CookiesExpired")
            wait_for(operator, "SELECT scope, reason FROM enrollgate_holds WHERE active = 1", held)
            for task in (6, 7):
                add(task, bob)
            wait_for(operator, count, ("failed", 1), ("enrolled", 4), ("completed", 2))
            shown = operator.command("holds").stdout
            assert "CookiesExpired" in shown and "4 tasks" in shown, shown
            cookies.write_text(site.cookies_file("ada"))
            wait_for(operator, count, ("failed", 1), ("completed", 6))
            closed = operator.sql("SELECT probes, active FROM enrollgate_holds")
            assert closed == [(0, None)], "closed by the cookies, without a probe"
        finally:
            operator.stop_all()
