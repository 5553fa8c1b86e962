"""The launchers that need no cluster, for the conformance cases: in memory, and local processes."""

from dataclasses import replace

from tests.integration.launchers.harness import LocalLauncherHarness
from tests.launcher_conformance import INSTALLATION
from tests.world import MemoryLauncher

from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import exit_code
from enrollgate.domain.report import Report
from enrollgate.launchers import Launcher

# Ends when the test says, with the exit code and the report that the test says.
SCRIPTED_WORKER = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
exit_file = notes / ("exit-" + os.environ["ENROLLGATE_TASK_ID"])
while not exit_file.exists():
    time.sleep(0.02)
code, _, text = exit_file.read_text().partition("\\n")
pathlib.Path(os.environ["ENROLLGATE_REPORT_PATH"]).write_text(text)
sys.exit(int(code))
"""


class MemoryBackend:
    """The launcher that the reconciler's tests use."""

    def __init__(self) -> None:
        self._launcher = MemoryLauncher()

    @property
    def launcher(self) -> Launcher:
        return self._launcher

    def restart(self) -> None:
        self._launcher = MemoryLauncher(runs=self._launcher.runs)

    def finish(self, name: str, report: Report) -> None:
        phase = Phase.SUCCEEDED if report.reason is None else Phase.FAILED
        self._launcher.runs[name] = replace(self._launcher.runs[name], phase=phase, report=report)

    def take_name(self, name: str) -> None:
        self._launcher.taken.add(name)

    def make_unavailable(self) -> None:
        self._launcher.available = False


class LocalBackend:
    """Real processes; a worker ends when its exit file appears."""

    def __init__(self, harness: LocalLauncherHarness) -> None:
        self._harness = harness
        self.restart()

    @property
    def launcher(self) -> Launcher:
        return self._launcher

    def restart(self) -> None:
        self._launcher = self._harness.launcher(SCRIPTED_WORKER, installation=INSTALLATION)

    def finish(self, name: str, report: Report) -> None:
        task_id = name.split("-")[1]
        draft = self._harness.notes / f"{name}.draft"
        draft.write_text(f"{exit_code(report.reason)}\n{report.encode()}")
        draft.rename(self._harness.notes / f"exit-{task_id}")

    def take_name(self, name: str) -> None:
        self._harness.run(name).path.touch()

    def make_unavailable(self) -> None:
        runs = self._harness.work_dir / "runs"
        runs.rename(runs.with_name("elsewhere"))
        runs.touch()
