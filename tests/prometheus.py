"""A real Prometheus for the tests: its programs, and a server that scrapes and evaluates rules.

In come rules and the port of an operator. Out come the answers of its HTTP API:
https://prometheus.io/docs/prometheus/latest/querying/api/.
"""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.conftest import absent
from tests.databases.server import free_port
from tests.repository import REPOSITORY


def programs() -> Path:
    """Return the folder with prometheus and promtool. Skips the test if they are not there."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "prometheus"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        absent("Prometheus", done.stderr.strip()[-300:])
    return Path(done.stdout.strip())


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query. Raises AssertionError if it is refused."""
        parameters = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}") as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return found

    def has_data(self, expression: str) -> bool:
        """Return whether the expression has a sample that is a number."""
        return any(sample["value"][1] != "NaN" for sample in self.query(expression))

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts") as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready"):
                return True
        except OSError:
            return False


@contextmanager
def running(folder: Path, rules: str, target: int) -> Iterator[Prometheus]:
    """Run a server that scrapes the job `enrollgate` at this port four times a second."""
    (folder / "alerts.yaml").write_text(rules, encoding="utf-8")
    often = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    job = {"job_name": "enrollgate", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    config = {"global": often, "rule_files": ["alerts.yaml"], "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                programs() / "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stderr=log,
            stdout=log,
        )
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=60)
