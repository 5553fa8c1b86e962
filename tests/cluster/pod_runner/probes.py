"""httpGet probes by the kubelet's rules: delay, period, and thresholds of answers in a row.

See https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/.
"""

import http.client
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
# Seconds: tests need not wait as long as a cluster may.
_LONGEST_PERIOD = 1.0


@dataclass
class Probe:
    """A probe that is repeated. `holds` is the state that the kubelet would report."""

    spec: Json
    port: int
    holds: bool
    # In seconds, on the clock that `ask` is given.
    due: float
    # Answers in a row that contradict the state.
    in_a_row: int = 0
    # Failed answers in a row.
    misses: int = 0

    def ask(self, now: float) -> bool:
        """Send a request if it is due. Returns whether the state has changed."""
        if now < self.due:
            return False
        self.due = now + min(_LONGEST_PERIOD, self.spec.get("periodSeconds", 10))
        good = self._answers()
        self.misses = 0 if good else self.misses + 1
        self.in_a_row = 0 if good == self.holds else self.in_a_row + 1
        wanted = (
            self.spec.get("successThreshold", 1) if good else self.spec.get("failureThreshold", 3)
        )
        if self.in_a_row < wanted:
            return False
        self.holds, self.in_a_row = good, 0
        return True

    def _answers(self) -> bool:
        get = self.spec["httpGet"]
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=self.spec.get("timeoutSeconds", 1)
        )
        try:
            connection.request("GET", get.get("path", "/"))
            return bool(200 <= connection.getresponse().status < 400)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def build_probe(container: Json, kind: str, port: int, *, holds: bool, now: float) -> Probe | None:
    """Return the container's `readiness`, `liveness` or `startup` probe, if it has one."""
    spec = container.get(f"{kind}Probe")
    return (
        None if spec is None else Probe(spec, port, holds, now + spec.get("initialDelaySeconds", 0))
    )


class Health:
    """What a container's probes say together."""

    def __init__(self, container: Json, port: int, now: float) -> None:
        self._startup = build_probe(container, "startup", port, holds=False, now=now)
        self._readiness = build_probe(container, "readiness", port, holds=False, now=now)
        self._liveness = build_probe(container, "liveness", port, holds=True, now=now)

    @property
    def ready(self) -> bool:
        return self._started and (self._readiness is None or self._readiness.holds)

    @property
    def _started(self) -> bool:
        return self._startup is None or self._startup.holds

    @property
    def alive(self) -> bool:
        """Whether the container may go on; False: it must be restarted."""
        if self._startup is not None and not self._startup.holds:
            return bool(self._startup.misses < self._startup.spec.get("failureThreshold", 3))
        return self._liveness is None or self._liveness.holds

    def ask(self, now: float) -> None:
        """Run the probes that are due."""
        if self._startup is not None and not self._startup.holds:
            self._startup.ask(now)
            return
        for probe in (self._readiness, self._liveness):
            if probe is not None:
                probe.ask(now)
