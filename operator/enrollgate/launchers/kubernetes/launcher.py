"""The Kubernetes launcher: one Job per run, observed afresh for every pass and remembered nowhere.

    observe   list our unrecorded Jobs (or read the named ones) -> ask the pods of the finished, the overdue and the missing
    launch    create; 409: adopt it if it is ours, else the name is taken; 403 `exceeded quota`: wait
    stop      read afresh, then delete that very Job (uid) with background propagation
    discard   label it as recorded: it leaves the listing and the watch, and the TTL controller removes it

A Job that is gone may have left a pod behind that is still ending (background deletion, `kubectl delete job`). Its run counts as
live until that pod is gone, so that no second worker is ever started beside the first.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import chain
from typing import TypeVar

import structlog

from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.run_event import RunEvent
from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, ConnectionDetails, Json
from enrollgate.launchers.kubernetes.diagnosis import is_overdue, report_of, why_not_begun
from enrollgate.launchers.kubernetes.events import EventRecorder
from enrollgate.launchers.kubernetes.manifest import JobSettings, build_job
from enrollgate.launchers.kubernetes.views import (
    RECORDED,
    EventView,
    JobResult,
    JobView,
    PodView,
    event_view,
    job_view,
    pod_view,
    selector_of,
)

_LOG = structlog.get_logger(__name__)
PODS_OF = 50
"""Jobs whose pods are asked for at once. The API server looks through all pods for each listing by label, so that asking Job by
Job would cost the square of their number; and so many names still fit the URL that any proxy takes."""
_GONE_FOR_GOOD = timedelta(seconds=60)
"""How long after its deletion was due a pod counts as gone, though its node never said so."""
_DENIED = re.compile(r"denied (the )?request")
"""An admission policy's or webhook's no, under whatever status it chose.
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/"""
_JOB_NAME = "batch.kubernetes.io/job-name"
"""The label by which the Job controller marks a Job's pods."""
_T = TypeVar("_T")
_R = TypeVar("_R")


class KubernetesLauncher:
    """Runs as Jobs in one namespace. Implements `Launcher`.

    `start_timeout` is the seconds that a Job may take to get a running pod; `concurrency` bounds the requests at once. `clock`
    gives the present moment with its time zone, by which pods are judged late. `progress` is told of each request that is served,
    from any thread.
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
    ) -> None:
        self.api = api
        self.namespace = settings.namespace
        self._settings = settings
        self._start_timeout = start_timeout
        self._clock = clock
        self._progress = progress
        self._concurrency = concurrency
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="kubernetes")
        self._jobs = f"/apis/batch/v1/namespaces/{settings.namespace}/jobs"
        self._pods = f"/api/v1/namespaces/{settings.namespace}/pods"
        self._events = f"/api/v1/namespaces/{settings.namespace}/events"
        self._events_recorder = EventRecorder(api, settings.namespace, clock=clock)

    # seeing

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        """See `Launcher.observe`."""
        wanted = frozenset(expected)
        jobs = self._read(wanted) if only else self._list()
        seen: dict[str, Observation | None] = {
            name: Observation(name, _phase(job.result), uid=job.uid) for name, job in jobs.items()
        }
        asked_for = [job for name, job in jobs.items() if name in wanted]
        seen |= self._endings(asked_for)
        seen |= self._overdue(asked_for)
        seen |= self._lingering(wanted - jobs.keys())
        return {name: each for name, each in seen.items() if each is not None}

    def connection_details(self) -> ConnectionDetails:
        """How to reach the same API server with the same, possibly renewed, credentials."""
        return self.api.connection_details()

    def _list(self) -> dict[str, JobView]:
        query = {"labelSelector": selector_of(self._settings.installation)}
        return {
            job.name: job for page in self._pages(self._jobs, query) for job in map(job_view, page)
        }

    def _read(self, names: Iterable[str]) -> dict[str, JobView]:
        found = self._each(self._find, names)
        return {
            job.name: job
            for job in found
            if job is not None and self._is_ours(job) and not job.recorded
        }

    def _find(self, name: str) -> JobView | None:
        try:
            return job_view(self._call("GET", f"{self._jobs}/{name}"))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise self._misconfigured(error) from error

    def _is_ours(self, job: JobView) -> bool:
        return job.installation == self._settings.installation

    def _endings(self, jobs: Iterable[JobView]) -> Mapping[str, Observation]:
        """How those of them that are finished ended."""
        ended = {job.name: (job.uid, job.result) for job in jobs if job.result is not None}
        pods = self._pods_of(list(ended))

        def ask(name: str) -> Observation:
            (uid, result), own = ended[name], pods[name]
            report = report_of(result, own, () if own else self._events_of(name))
            return Observation(name, _phase(result), report, uid=uid)

        return {each.name: each for each in self._each(ask, ended)}

    def _overdue(self, jobs: Iterable[JobView]) -> Mapping[str, Observation | None]:
        """What became of those of them that have had their time to begin, and have no pod that is ready."""
        now = self._clock()
        names = [job.name for job in jobs if is_overdue(job, now, self._start_timeout)]
        return dict(zip(names, self._each(self._look_closely, names), strict=True))

    def _look_closely(self, name: str) -> Observation | None:
        """Whether an overdue Job has really not begun: everything is read afresh before anything is concluded. None: its node is
        lost, and the run with it. The Job itself would wait for its pod's end for ever.
        """
        job = self._find(name)
        if job is None or job.result is not None:
            # it moved on between two looks: the next pass sees where to
            return Observation(name, Phase.LIVE, uid=job.uid if job else None)
        pods = [pod for _, pod in self._labelled([name])]
        living = [pod for pod in pods if not pod.is_over]
        if living and not any(map(self._may_run, living)):
            return None
        events = [
            event
            for subject in (name, *(pod.name for pod in living))
            for event in self._events_of(subject)
        ]
        report = why_not_begun(job, pods, events, self._clock(), self._start_timeout)
        return Observation(name, Phase.LIVE if report is None else Phase.STUCK, report, uid=job.uid)

    def _lingering(self, gone: Collection[str]) -> Mapping[str, Observation]:
        """Of these runs without a Job, those that still have a pod which may run."""
        pods = self._pods_of(list(gone))
        return {
            name: Observation(name, Phase.LIVE, is_ending=True)
            for name in gone
            if any(map(self._may_run, pods[name]))
        }

    def _pods_of(self, names: Sequence[str]) -> Mapping[str, list[PodView]]:
        """The pods of each of these Jobs, of many at a time."""
        found: dict[str, list[PodView]] = {name: [] for name in names}
        some = (names[start : start + PODS_OF] for start in range(0, len(names), PODS_OF))
        for name, pod in chain.from_iterable(self._each(self._labelled, some)):
            found[name].append(pod)
        return found

    def _labelled(self, names: Sequence[str]) -> list[tuple[str, PodView]]:
        pages = self._pages(self._pods, {"labelSelector": f"{_JOB_NAME} in ({','.join(names)})"})
        return [
            (raw["metadata"]["labels"][_JOB_NAME], pod_view(raw)) for page in pages for raw in page
        ]

    def _events_of(self, name: str) -> list[EventView]:
        pages = self._pages(self._events, {"fieldSelector": f"involvedObject.name={name}"})
        return [event_view(raw) for page in pages for raw in page]

    def _may_run(self, pod: PodView) -> bool:
        late = (
            pod.deleting_since is not None and self._clock() - pod.deleting_since > _GONE_FOR_GOOD
        )
        return not pod.is_over and not late

    # doing

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """See `Launcher.launch`."""
        self._events_recorder.pause()
        try:
            results = self._each(lambda launch: (launch, self._create(launch.order)), launches)
        finally:
            self._events_recorder.resume()
        yield from ((launch, result) for launch, result in results if result is not None)

    def _create(self, order: RunOrder) -> LaunchResult | None:
        try:
            created = self._call("POST", self._jobs, body=build_job(order, self._settings))
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                return self._adopt(order.name)
            if error.status == HTTPStatus.FORBIDDEN and "exceeded quota" in error.message:
                _LOG.warning(
                    "the namespace's quota lets no further Job in; the run waits",
                    run=order.name,
                    error=error.message,
                )
                return None
            raise self._misconfigured(error) from error
        return LaunchResult(LaunchOutcome.LAUNCHED, created["metadata"]["uid"])

    def _adopt(self, name: str) -> LaunchResult | None:
        job = self._find(name)
        if job is None or job.deleting:
            return None
        if not self._is_ours(job):
            return LaunchResult(LaunchOutcome.NAME_TAKEN)
        if job.recorded:  # of an earlier database of this installation, whose numbers began afresh
            self._delete(job)
            return None
        return LaunchResult(LaunchOutcome.ADOPTED, job.uid)

    def stop(self, name: str, uid: str | None) -> None:
        """See `Launcher.stop`."""
        job = self._find(name)
        if job is None or (uid is not None and job.uid != uid):
            return
        if self._is_ours(job) and not job.deleting and job.result is None:
            self._delete(job)

    def _delete(self, job: JobView) -> None:
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": job.uid},
        }
        try:
            self._call("DELETE", f"{self._jobs}/{job.name}", body=options)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise self._misconfigured(error) from error

    def discard(self, observations: Iterable[Observation]) -> None:
        """See `Launcher.discard`. Only a Job that was seen ended is marked; a run without one needs no mark."""
        ended = [each for each in observations if each.uid is not None and not each.is_live]
        self._each(self._mark_recorded, ended)

    def _mark_recorded(self, observation: Observation) -> None:
        metadata = {"uid": observation.uid, "labels": {RECORDED: "true"}}
        try:
            self._call("PATCH", f"{self._jobs}/{observation.name}", body={"metadata": metadata})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND and not _is_another(error):
                raise self._misconfigured(error) from error

    def record_event(self, name: str, uid: str | None, event: RunEvent) -> None:
        """See `Launcher.record_event`: a Kubernetes Event on the Job."""
        if uid is not None:
            self._events_recorder.record_event(name, uid, event)

    def close(self) -> None:
        """Writes the last Events and closes the connections."""
        self._events_recorder.close()
        self._pool.shutdown(wait=True)
        self.api.close()

    # asking

    def _call(self, method: str, path: str, *, body: Json | None = None) -> Json:
        answer = self.api.request(method, path, body=body)
        self._progress()
        return answer

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterable[list[Json]]:
        try:
            for page in self.api.pages(path, query=query):
                self._progress()
                yield page
        except ApiError as error:
            raise self._misconfigured(error) from error

    def _each(self, function: Callable[[_T], _R], arguments: Iterable[_T]) -> list[_R]:
        """Applies it to all, some at a time, taking an argument when its turn is near; raises the first error once all have ended.
        If the API server is away, those that have not begun never do: each would wait as long.
        """
        futures = list[Future[_R]]()
        is_away = threading.Event()
        turns = threading.Semaphore(2 * self._concurrency)

        def take_turn(argument: _T) -> _R:
            try:
                return function(argument)
            except LauncherUnavailable as error:
                if _is_away(error):
                    is_away.set()
                raise
            finally:
                turns.release()

        try:
            for argument in arguments:
                turns.acquire()
                if is_away.is_set():
                    break
                futures.append(self._pool.submit(take_turn, argument))
        finally:
            wait(futures)
        for future in futures:
            if _is_away(future.exception()):
                future.result()
        return [future.result() for future in futures]

    def _misconfigured(self, error: ApiError) -> LauncherRefused:
        remedy = "see what it says; the tasks wait meanwhile"
        if _DENIED.search(error.message):
            remedy = "see the admission policy or webhook that it names; the tasks wait meanwhile"
        elif error.status == HTTPStatus.FORBIDDEN:
            remedy = "grant the operator what the Role in the chart grants"
        elif error.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            remedy = "mend ENROLLGATE_KUBERNETES__JOB_TEMPLATE, or the setting that it names"
        elif error.status == HTTPStatus.NOT_FOUND:
            remedy = f"see that the namespace {self._settings.namespace!r} exists"
        elif error.status == HTTPStatus.UNAUTHORIZED:
            remedy = "see that the operator's service account still exists"
        return LauncherRefused(f"the Kubernetes API server refused a request: {error}; {remedy}")


def _phase(result: JobResult | None) -> Phase:
    if result is None:
        return Phase.LIVE
    return Phase.SUCCEEDED if result.succeeded else Phase.FAILED


def _is_away(error: BaseException | None) -> bool:
    return isinstance(error, LauncherUnavailable) and not isinstance(error, LauncherRefused)


def _is_another(error: ApiError) -> bool:
    """Whether a patch was refused because the object of this name has another uid: the one that was meant is gone."""
    return error.status == HTTPStatus.CONFLICT or (
        error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in error.message
    )
