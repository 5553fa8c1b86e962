"""A real Prometheus scrapes a live operator: each panel has data, and each alert comes."""

import time
from pathlib import Path

import yaml
from scripts.monitoring import alerts, dashboard
from tests.databases.server import free_port
from tests.e2e.operator_process import OperatorProcess, course_site, wait_until
from tests.prometheus import Prometheus, running

from enrollgate.domain.account import cookies_name

# Five minutes become three seconds.
TIMES = alerts.Times(speed=100, oldest_enrolled=300)
COURSE = "ceramics"


def panel_queries() -> set[str]:
    """Return the queries of the dashboard, with all variables at "All"."""
    values = {"$__rate_interval": "30s", "$__range": "5m", "$namespace": ".*", "$job": ".*"}
    queries = {
        query
        for panels in dashboard.ROWS.values()
        for panel in panels
        for query, _ in panel.queries
    }
    for variable, value in values.items():
        queries = {query.replace(variable, value) for query in queries}
    return queries


class Watch:
    """Note which alerts have come, and which queries have had data."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.without_data = panel_queries()
        self.come: set[str] = set()

    def look(self) -> None:
        self.come |= self.prometheus.firing()
        self.without_data -= {each for each in self.without_data if self.prometheus.has_data(each)}

    def wait_for(self, *names: str) -> None:
        wanted = {f"Enrollgate{name}" for name in names}

        def have_come() -> bool:
            self.look()
            return wanted <= self.come

        wait_until(have_come, lambda: f"{wanted - self.come} did not come")


def test_every_panel_has_data_and_every_alert_comes(tmp_path: Path, sqlite_url: str) -> None:
    rules = alerts.render(TIMES)
    port = free_port()
    with course_site() as site, running(tmp_path, rules, port) as prometheus:
        wait_until(prometheus.is_ready, (tmp_path / "prometheus.log").read_text)
        watch = Watch(prometheus)
        operator = OperatorProcess(
            tmp_path,
            sqlite_url,
            site,
            HTTP_PORT=str(port),
            ENROLLMENT_TIMEOUT="2",
            MAX_ATTEMPTS="1",
        )
        operator.create_table()
        expiring = cookies_name("expiring@example.com")
        (tmp_path / "cookies" / expiring).write_text(
            f"courses.example.com\tFALSE\t/\tFALSE\t{int(time.time()) + 3600}\tsession\tx\n"
        )
        try:
            watch.wait_for("Down")
            for task in range(1, 6):
                account = operator.add(task, COURSE)
                if task > 1:  # its run fails: CookiesMissing
                    (tmp_path / "cookies" / cookies_name(account)).unlink()
            for task in range(11, 16):
                operator.add(task, COURSE, "processing")
            operator.start()
            operator.wait_for_status(1, "completed")
            # The first tasks may be counted before the first scrape: then their rate is 0.
            operator.add(6, COURSE)
            operator.wait_for_status(6, "completed")
            for task in range(31, 36):  # the same: an increase needs a scrape before
                operator.add(task, COURSE, "processing")
            watch.wait_for("RunFailed", "ManyRunsFailed", "TimeoutsRising", "CookiesExpiring")
            account = expiring.removeprefix("cookies-")[:12]
            assert prometheus.has_data(
                f'enrollgate_cookies_expiry_timestamp_seconds{{account="{account}"}} > time()'
            )
            assert prometheus.has_data("enrollgate_attempts_total >= 6")

            operator.sql(
                "CREATE TRIGGER no_runs BEFORE INSERT ON enrollgate_runs "
                "BEGIN SELECT RAISE(ABORT, 'no more runs'); END"
            )
            operator.add(21, COURSE)
            watch.wait_for("NothingLaunched", "OldestEnrolled", "TasksSetAside", "HoldOpen")

            operator.sql("ALTER TABLE download_tasks RENAME TO elsewhere")
            watch.wait_for("PassesAborted", "NoPass")
            assert not watch.without_data
            aborted = 'enrollgate_database_errors_total{kind="DatabaseMisconfigured"} > 0'
            assert prometheus.has_data(aborted)
            operator.sql("ALTER TABLE elsewhere RENAME TO download_tasks")

            operator.sql("UPDATE enrollgate_tasks SET enrolled_seen_at = 'no instant'")
            watch.wait_for("UnexpectedErrors")
        finally:
            operator.stop_all()
    every = {rule["alert"] for rule in yaml.safe_load(rules)["groups"][0]["rules"]}
    assert watch.come == every
