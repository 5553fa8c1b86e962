"""What the launcher reads and writes in its namespace: Jobs, their pods, their Events.

In: names, UIDs, manifests. Out: typed views. A refusal becomes LauncherRefused with the remedy.
Nothing is decided here. This is the one place that reads raw objects, also those of a watch. Fields
as of `batch/v1` Job and `v1` Pod, https://kubernetes.io/docs/reference/kubernetes-api/.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import chain

from enrollgate.launchers.base import LauncherRefused
from enrollgate.launchers.kubernetes.api import Api, ApiError, Json
from enrollgate.launchers.kubernetes.request_pool import RequestPool
from enrollgate.launchers.kubernetes.views import (
    CLAIM,
    INSTALLATION,
    RECORDED,
    WORKER,
    EventView,
    JobResult,
    JobView,
    PodView,
    Termination,
    job_selector,
)

# Jobs per listing of pods. The API server scans all pods for each listing by label, so one listing
# per Job would cost the square of their number. A URL with so many names still passes any proxy.
JOBS_PER_POD_LISTING = 50
# The label by which the Job controller marks a Job's pods.
_JOB_NAME = "batch.kubernetes.io/job-name"
# The refusal of an admission policy or webhook, under whatever status it chose:
# https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
_DENIED = re.compile(r"denied (the )?request")


class QuotaExceeded(Exception):
    """A resource quota of the namespace does not allow another Job now."""


class NameTaken(Exception):
    """A Job of this name exists."""


class JobClient:
    """Reads and writes the Jobs of one namespace.

    `progress` is called after each request that was served, from any thread.
    """

    def __init__(
        self, api: Api, namespace: str, pool: RequestPool, progress: Callable[[], None]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._pool = pool
        self._progress = progress
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    def list_unrecorded(self, installation: str) -> list[JobView]:
        """List the Jobs of an installation whose outcome is not in the database yet."""
        return [
            parse_job(raw)
            for raw in self._list(self._jobs, {"labelSelector": job_selector(installation)})
        ]

    def find(self, name: str) -> JobView | None:
        """Read a Job; None if there is none."""
        try:
            return parse_job(self._request("GET", f"{self._jobs}/{name}"))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise self._refused(error) from error

    def find_all(self, names: Iterable[str]) -> list[JobView]:
        """Read these Jobs one by one; those that do not exist are left out."""
        return [job for job in self._pool.map(self.find, names) if job is not None]

    def pods_by_job(self, names: Sequence[str]) -> Mapping[str, list[PodView]]:
        """List the pods of each of these Jobs, with one listing for many Jobs."""
        pods: dict[str, list[PodView]] = {name: [] for name in names}
        batches = (
            names[start : start + JOBS_PER_POD_LISTING]
            for start in range(0, len(names), JOBS_PER_POD_LISTING)
        )

        def list_pods(batch: Sequence[str]) -> list[Json]:
            selector = f"{_JOB_NAME} in ({','.join(batch)})"
            path = f"/api/v1/namespaces/{self._namespace}/pods"
            return list(self._list(path, {"labelSelector": selector}))

        for raw in chain.from_iterable(self._pool.map(list_pods, batches)):
            pods[raw["metadata"]["labels"][_JOB_NAME]].append(parse_pod(raw))
        return pods

    def events(self, name: str) -> list[EventView]:
        """List the Events of the object of this name."""
        path = f"/api/v1/namespaces/{self._namespace}/events"
        return [
            parse_event(raw)
            for raw in self._list(path, {"fieldSelector": f"involvedObject.name={name}"})
        ]

    def create(self, manifest: Json) -> str:
        """Create a Job and return its UID. Raises NameTaken or QuotaExceeded."""
        try:
            uid: str = self._request("POST", self._jobs, body=manifest)["metadata"]["uid"]
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                raise NameTaken(error.message) from error
            if error.status == HTTPStatus.FORBIDDEN and "exceeded quota" in error.message:
                raise QuotaExceeded(error.message) from error
            raise self._refused(error) from error
        return uid

    def delete(self, job: JobView, *, keep_name: bool = False) -> None:
        """Delete this very Job, and its pods in the background. Idempotent.

        With `keep_name`, the Job exists until its pods are gone:
        https://kubernetes.io/docs/concepts/architecture/garbage-collection/#foreground-deletion
        """
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if keep_name else "Background",
            "preconditions": {"uid": job.uid},
        }
        try:
            self._request("DELETE", f"{self._jobs}/{job.name}", body=options)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise self._refused(error) from error

    def mark_recorded(self, name: str, uid: str) -> None:
        """Label this very Job as recorded. Does nothing if it is gone."""
        metadata = {"uid": uid, "labels": {RECORDED: "true"}}
        try:
            self._request("PATCH", f"{self._jobs}/{name}", body={"metadata": metadata})
        except ApiError as error:
            # A patch with another UID is refused: then the Job is gone, and another one has its
            # name.
            is_replaced = error.status == HTTPStatus.CONFLICT or (
                error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in error.message
            )
            if error.status != HTTPStatus.NOT_FOUND and not is_replaced:
                raise self._refused(error) from error

    def _request(self, method: str, path: str, *, body: Json | None = None) -> Json:
        answer = self._api.request(method, path, body=body)
        self._progress()
        return answer

    def _list(self, path: str, query: Mapping[str, str]) -> Iterator[Json]:
        try:
            for page in self._api.pages(path, query=query):
                self._progress()
                yield from page
        except ApiError as error:
            raise self._refused(error) from error

    def _refused(self, error: ApiError) -> LauncherRefused:
        """Build the error that names what was refused and how to fix it."""
        if _DENIED.search(error.message):
            remedy = "see the admission policy or webhook that it names; the tasks wait meanwhile"
        elif error.status == HTTPStatus.FORBIDDEN:
            remedy = "grant the operator what the Role in the chart grants"
        elif error.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            remedy = "fix ENROLLGATE_KUBERNETES__JOB_TEMPLATE, or the setting that it names"
        elif error.status == HTTPStatus.NOT_FOUND:
            remedy = f"see that the namespace {self._namespace!r} exists"
        elif error.status == HTTPStatus.UNAUTHORIZED:
            remedy = "see that the operator's service account still exists"
        else:
            remedy = "see what it says; the tasks wait meanwhile"
        return LauncherRefused(f"the Kubernetes API server refused a request: {error}; {remedy}")


def parse_job(raw: Json) -> JobView:
    """Read a Job."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    # Which field was written when:
    # https://kubernetes.io/docs/reference/using-api/server-side-apply/
    status_writes = [
        _time(entry, "time")
        for entry in metadata.get("managedFields") or ()
        if entry.get("subresource") == "status"
    ]
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        installation=labels.get(INSTALLATION),
        is_recorded=RECORDED in labels,
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        started=_time(status, "startTime"),
        is_suspended=bool(spec.get("suspend")),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        ready_pods=int(status.get("ready") or 0),
        current_pods=int(status.get("active") or 0)
        + int(status.get("terminating") or 0)
        + sum(len(uncounted.get(kind) or ()) for kind in ("succeeded", "failed")),
        failed_pods=int(status.get("failed") or 0),
        status_changed=max(filter(None, status_writes), default=None),
        result=parse_job_result(status.get("conditions") or ()),
        claim_id=labels.get(CLAIM) or "",
    )


def parse_job_result(conditions: Iterable[Json]) -> JobResult | None:
    """Read how a Job ended, from `Complete` or `Failed`; None while it is unfinished."""
    for condition in conditions:
        kind = condition.get("type")
        if kind in ("Complete", "Failed") and condition.get("status") == "True":
            return JobResult(
                kind == "Complete",
                _text(condition, "reason"),
                _text(condition, "message"),
                _time(condition, "lastTransitionTime"),
            )
    return None


def parse_pod(raw: Json) -> PodView:
    """Read a pod."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    unscheduled = disruption = ""
    if scheduled.get("status") == "False":
        unscheduled = _text(scheduled, "message") or "no node yet"
    target = conditions.get("DisruptionTarget") or {}
    if target.get("status") == "True":
        disruption = _text(target, "message") or _text(target, "reason")
    containers = status.get("containerStatuses") or ()
    worker: Json = next((each for each in containers if each.get("name") == WORKER), {})
    state = worker.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated")
    termination = None
    if terminated:
        termination = Termination(
            exit_code=int(terminated.get("exitCode", -1)),
            reason=_text(terminated, "reason"),
            message=_text(terminated, "message"),
            at=_time(terminated, "finishedAt"),
        )
    return PodView(
        name=metadata["name"],
        phase=_text(status, "phase") or "Pending",
        reason=_text(status, "reason"),
        message=_text(status, "message") or _failed_init_container(status),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        delete_by=_time(metadata, "deletionTimestamp"),
        has_started=bool(state.get("running") or terminated),
        waiting_reason=_text(waiting, "reason"),
        waiting_message=_text(waiting, "message"),
        unscheduled=unscheduled,
        disruption=disruption,
        termination=termination,
        started_at=_time(terminated or state.get("running") or {}, "startedAt"),
        claim_id=(metadata.get("labels") or {}).get(CLAIM) or "",
    )


def _failed_init_container(pod_status: Json) -> str:
    """Say which init container (of a job template) failed, so that the worker never started."""
    for container in pod_status.get("initContainerStatuses") or ():
        terminated = (container.get("state") or {}).get("terminated") or {}
        if terminated.get("exitCode"):
            return (
                f"init container {container['name']} ended with exit code "
                f"{terminated['exitCode']}: {_text(terminated, 'message')}"
            )
    return ""


def parse_event(raw: Json) -> EventView:
    """Read an Event."""
    series = raw.get("series") or {}
    return EventView(
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        is_warning=raw.get("type") == "Warning",
        last_seen=_text(series, "lastObservedTime")
        or _text(raw, "lastTimestamp")
        or _text(raw, "eventTime"),
    )


def changed_run(event: Json) -> str | None:
    """Return the run whose Job has finished, is gone or is no longer selected; else None.

    `event` is a watch event of Jobs.
    """
    job = event.get("object") or {}
    conditions = (job.get("status") or {}).get("conditions") or ()
    if event.get("type") != "DELETED" and parse_job_result(conditions) is None:
        return None
    name: str | None = (job.get("metadata") or {}).get("name")
    return name


def _text(raw: Json, field: str) -> str:
    return str(raw.get(field) or "")


def _time(raw: Json, field: str) -> datetime | None:
    value = raw.get(field)
    return datetime.fromisoformat(value) if value else None
