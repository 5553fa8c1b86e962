"""The Kubernetes launcher: one Job per run. Every pass observes the cluster; nothing is remembered.

    observe   list our unrecorded Jobs (or read the named ones; of many, most often list names and
    statuses, and read those that do not simply live); then ask about the pods of the finished,
    overdue and missing ones
    launch    create the Job; if its name exists: adopt it if it is of the same claim, delete it if
    it is of another claim of ours, else the name is taken; if a quota is exceeded: wait; if the
    server refuses this very Job: report that for this run alone
    stop      read the Job again, then delete that very Job (UID) with background propagation, or in
    the foreground if its name must stay taken
    discard   label the Job as recorded: it leaves the listing and the watch, and the TTL controller
    removes it

The pod of a deleted Job may still be ending (background deletion, `kubectl delete job`). Its run
counts as live until that pod is gone, so that a second worker never runs beside the first. So does
the run of a lost node, which confirms no end: that may last, and its observation says why.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.progress import RunProgress, find_last
from enrollgate.domain.run import RunPlace
from enrollgate.domain.run_event import HoldEvent, RunEvent
from enrollgate.launchers.base import LauncherRefused
from enrollgate.launchers.kubernetes.api import Api, ConnectionDetails
from enrollgate.launchers.kubernetes.diagnosis import (
    build_report,
    explain_lost_node,
    explain_not_started,
    is_overdue,
)
from enrollgate.launchers.kubernetes.events import EventRecorder
from enrollgate.launchers.kubernetes.job_client import (
    JOBS_PER_LISTING,
    JobClient,
    NameTaken,
    QuotaExceeded,
)
from enrollgate.launchers.kubernetes.manifest import JobSettings, JobTemplate
from enrollgate.launchers.kubernetes.request_pool import RequestPool
from enrollgate.launchers.kubernetes.views import NEVER, JobResult, JobView

_LOG = structlog.get_logger(__name__)
# Live Jobs from which on a full observation asks for their names and statuses alone, and the time
# after which it reads the Jobs all the same.
NAMES_FROM = 500
FULL_LISTING_INTERVAL = timedelta(minutes=2)
# Logs that are read at the same time: so many pods whose node does not answer delay no other pod.
LOGS_AT_ONCE = 8


class KubernetesLauncher:
    """Runs as Jobs in one namespace. Implements `Launcher`.

    Parameters:
        start_timeout: seconds that a Job may take to get a running pod.
        concurrency: requests at the same time, at most.
        clock: returns the current time with its time zone; pods are late by it.
        deployment: the operator's own Deployment, in the namespace of the Jobs; None if unknown.
        progress: called after each request that was served, from any thread.
    """

    def __init__(
        self,
        api: Api,
        settings: JobSettings,
        *,
        start_timeout: float,
        concurrency: int,
        clock: Callable[[], datetime],
        progress: Callable[[], None] = lambda: None,
        deployment: str | None = None,
    ) -> None:
        self.api = api
        self._deployment = deployment
        self.namespace = settings.namespace
        self._place: RunPlace | None = None
        self._settings = settings
        self._template = JobTemplate(settings)
        self._start_timeout = start_timeout
        self._clock = clock
        self._pool = RequestPool(concurrency)
        self._jobs = JobClient(api, settings.namespace, self._pool, progress)
        # Of its own: a thread that reads progress is no sign of life of the passes, and must not
        # wait for their requests, nor they for its.
        self._progress_pool, self._log_pool = RequestPool(1), RequestPool(LOGS_AT_ONCE)
        self._progress_jobs = JobClient(api, settings.namespace, self._progress_pool, lambda: None)
        # When all Jobs were last read.
        self._listed_at: datetime | None = None
        # The finished runs of the last full observation, by name: a finished Job does not change.
        # Where thousands end at once, they are recorded in several passes, and read once.
        self._ended = dict[str, Observation]()
        # The live runs that it explained why they wait: they are always read.
        self._explained = frozenset[str]()
        self._recorder = EventRecorder(api, settings.namespace, clock=clock)

    def connection_details(self) -> ConnectionDetails:
        """Return how to reach the same API server with the same, possibly renewed, credentials."""
        return self.api.connection_details()

    @property
    def place(self) -> RunPlace:
        """See `Launcher.place`: the namespace of this cluster. It is read when it is first used."""
        place = self._place
        if place is None:
            uid = self._jobs.namespace_uid()
            self._place = place = RunPlace("kubernetes", self.namespace, machine_id=uid)
        return place

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        """See `Launcher.observe`."""
        wanted = frozenset(expected)
        live = frozenset[str]()
        known = dict[str, Observation]()
        names = {} if only else self._list_names(wanted)
        if names is None:
            jobs = self._jobs.list_unrecorded(self._settings.installation)
        else:
            live = wanted & {name for name, lives_on in names.items() if lives_on}
            live -= self._explained
            # A name that lives is a new Job's.
            known = {name: seen for name, seen in self._ended.items() if not names.get(name, True)}
            doubtful = (wanted | names.keys()) - live - known.keys()
            found = self._jobs.find_all(doubtful, self._settings.installation)
            jobs = [job for job in found if self._is_ours(job) and not job.is_recorded]
        now = self._clock()
        observed = {name: Observation(name, Phase.LIVE) for name in live}
        observed |= known | {job.name: _observe(job) for job in jobs}
        missing = wanted - observed.keys()
        expected_jobs = [job for job in jobs if job.name in wanted]
        overdue = [job.name for job in expected_jobs if is_overdue(job, now, self._start_timeout)]
        ended = self._observe_finished(expected_jobs)
        observed |= ended
        if not only:
            self._ended = known | {name: seen for name, seen in ended.items() if not seen.is_live}
        observed |= {seen.name: seen for seen in self._pool.map(self._observe_overdue, overdue)}
        for name, pods in self._jobs.pods_by_job(dict.fromkeys(missing)).items():
            running = [pod for pod in pods if not pod.is_finished]
            if running:
                observed[name] = Observation(
                    name,
                    Phase.LIVE,
                    explain_lost_node(running, now),
                    is_ending=True,
                    claim_id=running[0].claim_id,
                )
        if not only:
            self._explained = frozenset(
                name for name, seen in observed.items() if seen.is_live and seen.report
            )
        if not wanted <= observed.keys():
            # Are they lost, or is this another namespace now? Read its UID again, after the Jobs.
            self._place = None
        return observed

    def _list_names(self, wanted: frozenset[str]) -> Mapping[str, bool] | None:
        """List our Jobs' names, and whether each simply lives; None if all Jobs are to be read.

        Few Jobs are always read. Many are read once in FULL_LISTING_INTERVAL: only then it is seen
        that one does not start in time, or is of another claim.
        """
        now = self._clock()
        # A clock may be set back.
        is_due = self._listed_at is None or abs(now - self._listed_at) >= FULL_LISTING_INTERVAL
        if len(wanted | self._ended.keys()) >= NAMES_FROM and not is_due:
            names = self._jobs.list_names(self._settings.installation)
            if names is not None:
                return names
        self._listed_at = now
        return None

    def _observe_finished(self, jobs: Iterable[JobView]) -> dict[str, Observation]:
        """Observe the finished ones of these Jobs, with reports.

        Events are read only where no pod is left. Before Kubernetes 1.31, a Job fails while its pod
        still ends: that one lives on.
        """
        finished = [(job, job.result) for job in jobs if job.result is not None]
        pods = self._jobs.pods_by_job({job.name: job.uid for job, _ in finished})

        def observe(pair: tuple[JobView, JobResult]) -> Observation:
            job, result = pair
            running = [pod for pod in pods[job.name] if not pod.is_finished]
            if running:
                lost = explain_lost_node(running, self._clock())
                return replace(_observe(job), phase=Phase.LIVE, report=lost, is_ending=True)
            events = () if pods[job.name] else self._jobs.events(job.name)
            report = build_report(result, pods[job.name], events)
            starts = [pod.started_at for pod in pods[job.name] if pod.started_at]
            ends = [pod.termination.at for pod in pods[job.name] if pod.termination]
            return replace(
                _observe(job),
                report=report,
                started_at=min(starts, default=job.started),
                finished_at=max(filter(None, ends), default=result.at),
            )

        return {seen.name: seen for seen in self._pool.map(observe, finished)}

    def _observe_overdue(self, name: str) -> Observation:
        """Read an overdue Job again and say whether it is stuck, or waits for a lost node."""
        job = self._jobs.find(name)
        if job is None or job.result is not None:
            # It changed between the two reads: the next pass sees how.
            return (
                replace(_observe(job), phase=Phase.LIVE) if job else Observation(name, Phase.LIVE)
            )
        pods = self._jobs.pods_by_job({name: job.uid})[name]
        current = [pod for pod in pods if not pod.is_finished]
        if lost := explain_lost_node(current, self._clock()):
            return replace(_observe(job), report=lost)
        events = [
            event
            for subject in (name, *(pod.name for pod in current))
            for event in self._jobs.events(subject)
        ]
        report = explain_not_started(job, pods, events, self._clock(), self._start_timeout)
        phase = Phase.STUCK if report else Phase.LIVE
        return replace(_observe(job), phase=phase, report=report)

    def _is_ours(self, job: JobView) -> bool:
        return job.installation == self._settings.installation

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """See `Launcher.launch`."""
        self._recorder.pause()
        try:
            for launch, result in self._pool.as_completed(
                lambda launch: (launch, self._create_or_adopt(launch.order)), launches
            ):
                if result is not None:
                    yield launch, result
        finally:
            self._recorder.resume()

    def _create_or_adopt(self, order: RunOrder) -> LaunchResult | None:
        """Create the Job, or adopt the existing one. None: not possible now, try again later."""
        try:
            return self._try_to_create(order)
        except LauncherRefused as error:
            if error.concerns_all:
                raise
            return LaunchResult(LaunchOutcome.REFUSED, refusal=str(error))

    def _try_to_create(self, order: RunOrder) -> LaunchResult | None:
        try:
            uid = self._jobs.create(self._template.build(order))
        except QuotaExceeded as error:
            _LOG.warning(
                "the namespace's quota does not allow another Job now; the run waits",
                run=order.name,
                error=str(error),
            )
            why = f"the namespace's ResourceQuota allows no further Job now ({error})"
            return LaunchResult(LaunchOutcome.WAITS, refusal=why)
        except NameTaken:
            job = self._jobs.find(order.name)
        else:
            return LaunchResult(LaunchOutcome.LAUNCHED, uid, self._clock())
        if job is None or job.is_deleting:
            return None
        if not self._is_ours(job):
            return LaunchResult(LaunchOutcome.NAME_TAKEN)
        if job.is_recorded or job.claim_id != order.claim_id:
            # It was created before the database was restored or replaced.
            self._jobs.delete(job, keep_name=True)
            return None
        return LaunchResult(LaunchOutcome.ADOPTED, job.uid, _observe(job).launched_at)

    def stop(self, name: str, uid: str | None, *, keep_name: bool = False) -> None:
        """See `Launcher.stop`."""
        job = self._jobs.find(name)
        if job is None or (uid is not None and job.uid != uid):
            return
        if self._is_ours(job) and not job.is_deleting and job.result is None:
            self._jobs.delete(job, keep_name=keep_name)

    def discard(self, observations: Iterable[Observation]) -> None:
        """See `Launcher.discard`. Only the very Job that was observed as finished is labelled."""
        finished = [
            (seen.name, seen.uid)
            for seen in observations
            if seen.uid is not None and not seen.is_live
        ]
        self._pool.map(lambda job: self._jobs.mark_recorded(*job), finished)

    def read_progress(
        self, names: Sequence[str], wait_for_turn: Callable[[], bool]
    ) -> Iterator[tuple[str, RunProgress]]:
        """See `Launcher.read_progress`: the last progress line in the log of each running pod.

        A log that hangs takes one thread, and the others go on.
        """

        def list_running() -> Iterator[tuple[str, str]]:
            for start in range(0, len(names), JOBS_PER_LISTING):
                if not wait_for_turn():
                    return
                batch = dict.fromkeys(names[start : start + JOBS_PER_LISTING])
                found = self._progress_jobs.pods_by_job(batch, phase="Running")
                for name, pods in found.items():
                    running = [pod for pod in pods if pod.has_started and not pod.is_finished]
                    if not running:
                        continue
                    if not wait_for_turn():
                        return
                    yield name, max(running, key=lambda pod: pod.created).name

        def read(run_and_pod: tuple[str, str]) -> tuple[str, RunProgress | None]:
            name, pod = run_and_pod
            return name, find_last(self._progress_jobs.log_end(pod))

        for name, progress in self._log_pool.stream(read, list_running()):
            if progress is not None:
                yield name, progress

    def record_event(self, name: str, uid: str | None, event: RunEvent) -> None:
        """See `Launcher.record_event`: a Kubernetes Event on the Job."""
        if uid is not None:
            self._recorder.record_event(name, uid, event)

    def record_hold(self, event: HoldEvent) -> None:
        """See `Launcher.record_hold`: a Kubernetes Event on the operator's Deployment, if named."""
        if self._deployment is not None:
            self._recorder.record_hold(self._deployment, event)

    def close(self) -> None:
        """Write the last Events and close the connections."""
        self._recorder.close()
        self._pool.close()
        self._progress_pool.close()
        self._log_pool.close()
        self.api.close()


def _observe(job: JobView) -> Observation:
    """Return what the Job alone says of its run."""
    return Observation(
        job.name,
        job.phase,
        is_ending=job.is_deleting and job.result is None,
        uid=job.uid,
        claim_id=job.claim_id,
        launched_at=job.created if job.created < NEVER else None,
    )
