"""The alert rules under `promtool`, which ships with Prometheus."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from scripts.monitoring import alerts
from tests.prometheus import programs
from tests.repository import REPOSITORY

RULES = REPOSITORY / "charts" / "enrollgate" / "monitoring" / "alerts.yaml"
TESTS = REPOSITORY / "tests" / "integration" / "alert_rules.yaml"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [programs() / "promtool", *arguments], capture_output=True, text=True, check=False
    )


def run_tests_with(rules: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests of the rules on other rules."""
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    tests = yaml.safe_load(TESTS.read_text(encoding="utf-8")) | {"rule_files": ["alerts.yaml"]}
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    return promtool("test", "rules", folder / "tests.yaml")


def test_rules_of_the_chart_are_valid() -> None:
    done = promtool("check", "rules", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_comes_when_it_must_and_not_before() -> None:
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_that_never_comes_is_noticed(tmp_path: Path) -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = f"({rule['expr']}) > +Inf"
    done = run_tests_with(rules, tmp_path)
    assert done.returncode != 0
    for rule in rules["groups"][0]["rules"]:
        assert rule["alert"] in done.stdout + done.stderr


def test_increase_alone_misses_a_failure_before_the_first_scrape(tmp_path: Path) -> None:
    """This is why the rules ask for more, and what docs/monitoring.md says of `increase()`."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    (rule,) = (
        each for each in rules["groups"][0]["rules"] if each["alert"] == "EnrollgateRunFailed"
    )
    selector = alerts.metric("runs_finished_total", 'outcome="failed", reason=~"Cookies.*"')
    rule["expr"] = alerts.total(f"increase({selector}[1h]) > 0", "reason")
    done = run_tests_with(rules, tmp_path)
    assert done.returncode != 0 and "CookiesExpired" in done.stdout + done.stderr
