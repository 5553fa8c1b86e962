"""What the launcher reads and writes in its namespace: Jobs, their pods, their Events.

In: names, UIDs, manifests. Out: typed views. A refusal becomes LauncherRefused with the remedy.
Nothing is decided here. This is the one place that reads raw objects, also those of a watch. Fields
as of `batch/v1` Job and `v1` Pod, https://kubernetes.io/docs/reference/kubernetes-api/. A missing
field, or one of another type, counts as empty: an odd object never stops the others.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain
from typing import Any

from enrollgate.common.redaction import redact
from enrollgate.common.strict_json import parse_instant
from enrollgate.domain.run import parse_run_name
from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes.api import (
    JSON,
    METADATA,
    TABLE,
    TEXT_LIMIT,
    Api,
    ApiError,
    Json,
)
from enrollgate.launchers.kubernetes.request_pool import RequestPool
from enrollgate.launchers.kubernetes.views import (
    CLAIM,
    INSTALLATION,
    NEVER,
    RECORDED,
    TASK,
    WORKER,
    EventView,
    JobResult,
    JobView,
    PodView,
    Termination,
    job_selector,
    task_label,
)

# Jobs, or Jobs whose pods are listed, per listing by label. The API server scans all objects for
# each, so one listing per Job would cost the square of their number. A URL with so many names still
# passes any proxy.
JOBS_PER_LISTING = 50
# Rows per page of a table of Jobs.
ROWS_PER_PAGE = 5_000
# What `kubectl get jobs` prints of a Job that goes on as it is, or has not begun.
_LIVE = ("Running", "Suspended")
# What it prints of a finished one.
_FINISHED = ("Complete", "Failed")
# The columns of such a table that are read. A server before Kubernetes 1.31 prints no status.
_COLUMNS = ["Name", "Status"]
# Named Jobs from which on they are listed, not read one by one.
LIST_FROM = 8
# The label by which the Job controller marks a Job's pods.
_JOB_NAME = "batch.kubernetes.io/job-name"
# The refusal of an admission policy or webhook, under whatever status it chose:
# https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
_DENIED = re.compile(r"denied (the )?request")
# What concerns every object, https://kubernetes.io/docs/reference/access-authn-authz/rbac/ and
# https://kubernetes.io/docs/tasks/administer-cluster/namespaces/#deleting-a-namespace
_FORBIDDEN_TO_ALL = re.compile(r'User ".*" cannot |because it is being terminated')


# Statuses that, without those words, are about one object.
_ABOUT_OBJECT = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)


_EPOCH = datetime.fromtimestamp(0, UTC)
# Characters of a text, at most; a termination message has 4096.
_TEXT_LIMIT = 2**15
# Lines of a pod's log in which its last progress line is looked for.
LOG_LINES = 40


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

    def namespace_uid(self) -> str:
        """Return the UID of the namespace. No namespace of another cluster has it.

        https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#uids

        Raises LauncherRefused or LauncherUnavailable.
        """
        what = f"the UID of the namespace {self._namespace!r}"
        try:
            path = f"/api/v1/namespaces/{self._namespace}"
            answer = self._request("GET", path, accept=METADATA)
        except ApiError as error:
            raise LauncherRefused(
                f"{what} cannot be read, which tells runs of other clusters apart from runs here: "
                f"{self._refused(error)}",
                concerns_all=True,
            ) from error
        uid = _text(_object(answer, "metadata"), "uid")
        if not uid:
            raise LauncherUnavailable(f"{what} is not in the API server's answer")
        return uid

    def list_unrecorded(self, installation: str) -> list[JobView]:
        """List the Jobs of an installation whose outcome is not in the database yet."""
        selector = {"labelSelector": job_selector(installation)}
        jobs = map(parse_job, self._list(self._jobs, selector))
        return [job for job in jobs if job.name]

    def list_names(self, installation: str) -> Mapping[str, bool] | None:
        """List the names of those Jobs, and whether each surely lives. None: not known here.

        The API server sends what `kubectl get jobs` prints, a twentieth of the Jobs themselves.
        """
        query = {"labelSelector": job_selector(installation), "includeObject": "None"}
        found, columns = dict[str, bool](), list[object]()
        try:
            pages = self._api.read_pages(
                self._jobs, "rows", query=query, limit=ROWS_PER_PAGE, accept=TABLE
            )
            for page in pages:
                self._progress()
                # Only the first page of a table has them.
                columns = _columns(page) or columns
                if columns != _COLUMNS:
                    return None
                for row in page["rows"] or ():
                    name, status, *_ = row["cells"]
                    found[name] = status in _LIVE
        except ApiError as error:
            raise self._refused(error) from error
        except (LookupError, TypeError, ValueError):  # it is no such table
            return None
        return found

    def find(self, name: str) -> JobView | None:
        """Read a Job; None if there is none."""
        try:
            return replace(parse_job(self._request("GET", f"{self._jobs}/{name}")), name=name)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise self._refused(error) from error

    def find_all(self, names: Collection[str], installation: str) -> list[JobView]:
        """Read these Jobs of an installation; those that do not exist are left out.

        Many are listed together, by their tasks. A label can be edited, so a Job that is not listed
        is looked for by its name.
        """
        found = dict[str, JobView]()
        if len(names) >= LIST_FROM:

            def list_jobs(tasks: Sequence[str]) -> list[JobView]:
                selector = f"{INSTALLATION}={installation},{TASK} in ({','.join(tasks)})"
                return [
                    parse_job(raw) for raw in self._list(self._jobs, {"labelSelector": selector})
                ]

            parsed = (parse_run_name(installation, name) for name in names)
            tasks = [task_label(each[0]) for each in parsed if each]
            listed = chain.from_iterable(self._pool.map(list_jobs, _batches(tasks)))
            found = {job.name: job for job in listed if job.name in names}
        rest = [name for name in names if name not in found]
        return [*found.values(), *filter(None, self._pool.map(self.find, rest))]

    def pods_by_job(
        self, uids: Mapping[str, str | None], *, phase: str | None = None
    ) -> Mapping[str, list[PodView]]:
        """List the pods of these Jobs, with one listing for many Jobs.

        `uids` has the name and the UID of each Job. Only pods that this very Job owns count: a
        label can be on any pod. The UID is None for a Job that is gone. Its pods count by the name,
        also those that were orphaned on purpose (`kubectl delete job --cascade=orphan`). With
        `phase`, only pods in this phase are listed.
        """
        names = list(uids)
        pods: dict[str, list[PodView]] = {name: [] for name in names}

        def list_pods(batch: Sequence[str]) -> list[PodView]:
            query = {"labelSelector": f"{_JOB_NAME} in ({','.join(batch)})"}
            if phase is not None:
                query["fieldSelector"] = f"status.phase={phase}"
            path = f"/api/v1/namespaces/{self._namespace}/pods"
            return [parse_pod(raw) for raw in self._list(path, query)]

        for pod in chain.from_iterable(self._pool.map(list_pods, _batches(names))):
            if pod.job in uids and uids[pod.job] in (None, pod.job_uid):
                pods[pod.job].append(pod)
        return pods

    def log_end(self, pod: str) -> str:
        """Return the last lines of a pod's log; empty if there is none.

        The request is sent once. Raises LauncherRefused if this account may not read logs.
        """
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}/log"
        # The kubelet counts the bytes from the first of these lines on.
        query = {
            "container": WORKER,
            "tailLines": str(LOG_LINES),
            "limitBytes": str(TEXT_LIMIT),
        }
        try:
            return self._api.read_text(path, query=query)
        except ApiError as error:
            # Not found, not started yet, or its node is away or refuses: that pod alone.
            if error.status == HTTPStatus.FORBIDDEN and _FORBIDDEN_TO_ALL.search(error.message):
                raise self._refused(error) from error
        except LauncherUnavailable:
            # Its node may be slow. If the API server is away, the next listing says so.
            pass
        return ""

    def events(self, name: str) -> list[EventView]:
        """List the Events of the object of this name."""
        path = f"/api/v1/namespaces/{self._namespace}/events"
        return [
            parse_event(raw)
            for raw in self._list(path, {"fieldSelector": f"involvedObject.name={name}"})
        ]

    def create(self, manifest: Json) -> str | None:
        """Create a Job. Return its UID, if the answer has it. Raises NameTaken or QuotaExceeded."""
        try:
            answer = self._request("POST", self._jobs, body=manifest, accept=METADATA)
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                raise NameTaken(error.message) from error
            if error.status == HTTPStatus.FORBIDDEN and "exceeded quota" in error.message:
                # Without the Job's name, so that all runs that wait have one text.
                at = error.message.index("exceeded quota")
                raise QuotaExceeded(redact(error.message[at:], 400)) from error
            raise self._refused(error) from error
        return _text(_object(answer, "metadata"), "uid") or None

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
            path = f"{self._jobs}/{name}"
            self._request("PATCH", path, body={"metadata": metadata}, accept=METADATA)
        except ApiError as error:
            # A patch with another UID is refused: then the Job is gone, and another one has its
            # name.
            is_replaced = error.status == HTTPStatus.CONFLICT or (
                error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in error.message
            )
            if error.status != HTTPStatus.NOT_FOUND and not is_replaced:
                raise self._refused(error) from error

    def _request(
        self, method: str, path: str, *, body: Json | None = None, accept: str = JSON
    ) -> Json:
        answer = self._api.request(method, path, body=body, accept=accept)
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
        # It said no to this very object, or to the operator?
        is_about_object = _DENIED.search(error.message) or error.status in _ABOUT_OBJECT
        return LauncherRefused(
            f"the Kubernetes API server refused a request: {error}; {remedy}",
            concerns_all=not is_about_object or bool(_FORBIDDEN_TO_ALL.search(error.message)),
        )


def _batches(each: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(each), JOBS_PER_LISTING):
        yield each[start : start + JOBS_PER_LISTING]


def parse_job(raw: Json) -> JobView:
    """Read a Job. The name is empty if there is none: then it is no Job."""
    metadata, status = _object(raw, "metadata"), _object(raw, "status")
    labels = _object(metadata, "labels")
    uncounted = _object(status, "uncountedTerminatedPods")
    # Which field was written when:
    # https://kubernetes.io/docs/reference/using-api/server-side-apply/
    status_writes = [
        _time(entry, "time")
        for entry in _objects(metadata, "managedFields")
        if entry.get("subresource") == "status"
    ]
    return JobView(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        installation=_text(labels, INSTALLATION) or None,
        is_recorded=RECORDED in labels,
        created=_time(metadata, "creationTimestamp") or NEVER,
        started=_time(status, "startTime"),
        is_suspended=_object(raw, "spec").get("suspend") is True,
        is_deleting=bool(metadata.get("deletionTimestamp")),
        ready_pods=_count(status, "ready"),
        current_pods=_count(status, "active")
        + _count(status, "terminating")
        + sum(len(_list(uncounted, kind)) for kind in ("succeeded", "failed")),
        failed_pods=_count(status, "failed"),
        status_changed=max(filter(None, status_writes), default=None),
        result=_parse_job_result(status),
        claim_id=_text(labels, CLAIM),
    )


def _parse_job_result(status: Json) -> JobResult | None:
    """Read how a Job ended, from `Complete` or `Failed`; None while it is unfinished."""
    for condition in _objects(status, "conditions"):
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
    metadata, status = _object(raw, "metadata"), _object(raw, "status")
    labels = _object(metadata, "labels")
    conditions = {_text(each, "type"): each for each in _objects(status, "conditions")}
    scheduled = _object(conditions, "PodScheduled")
    unscheduled = disruption = ""
    if scheduled.get("status") == "False":
        unscheduled = _text(scheduled, "message") or "no node yet"
    target = _object(conditions, "DisruptionTarget")
    if target.get("status") == "True":
        disruption = _text(target, "message") or _text(target, "reason")
    containers = _objects(status, "containerStatuses")
    worker: Json = next((each for each in containers if each.get("name") == WORKER), {})
    state = _object(worker, "state")
    waiting, terminated = _object(state, "waiting"), _object(state, "terminated")
    termination = None
    if terminated:
        termination = Termination(
            exit_code=_count(terminated, "exitCode", -1),
            reason=_text(terminated, "reason"),
            message=_text(terminated, "message"),
            at=_time(terminated, "finishedAt"),
        )
    started = _time(terminated or _object(state, "running"), "startedAt")
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
    owners = (
        each
        for each in _objects(metadata, "ownerReferences")
        if each.get("kind") == "Job" and each.get("controller") is True
    )
    owner: Json = next(owners, {})
    return PodView(
        name=_text(metadata, "name"),
        job=_text(owner, "name") or _text(labels, _JOB_NAME),
        job_uid=_text(owner, "uid"),
        phase=_text(status, "phase") or "Pending",
        reason=_text(status, "reason"),
        message=_text(status, "message") or _failed_init_container(status),
        created=_time(metadata, "creationTimestamp") or NEVER,
        delete_by=_time(metadata, "deletionTimestamp"),
        has_started=bool(_object(state, "running") or terminated),
        waiting_reason=_text(waiting, "reason"),
        waiting_message=_text(waiting, "message"),
        unscheduled=unscheduled,
        disruption=disruption,
        termination=termination,
        # A container that could not be started says 1970.
        started_at=started if started and started > _EPOCH else None,
        claim_id=_text(labels, CLAIM),
        node=_text(_object(raw, "spec"), "nodeName"),
    )


def _failed_init_container(pod_status: Json) -> str:
    """Say which init container (of a job template) failed, so that the worker never started."""
    for container in _objects(pod_status, "initContainerStatuses"):
        terminated = _object(_object(container, "state"), "terminated")
        if code := _count(terminated, "exitCode"):
            return (
                f"init container {_text(container, 'name')} ended with exit code "
                f"{code}: {_text(terminated, 'message')}"
            )
    return ""


def parse_event(raw: Json) -> EventView:
    """Read an Event."""
    return EventView(
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        is_warning=raw.get("type") == "Warning",
        last_seen=_text(_object(raw, "series"), "lastObservedTime")
        or _text(raw, "lastTimestamp")
        or _text(raw, "eventTime"),
    )


def prints_status(first: Json) -> bool:
    """Return whether a watch that begins with this event says how the Jobs are.

    The first event of a watch of tables has their columns, the others have not.
    """
    seen = _object(first, "object")
    return seen.get("kind") != "Table" or _columns(seen) == _COLUMNS


def changed_run(event: Json) -> str | None:
    """Return the run whose Job has finished, or was deleted before; else None.

    `event` is a watch event of Jobs, with the Job or with its row of a table (`prints_status`). A
    finished Job that leaves the watch is recorded, or was noticed when it finished.
    """
    job = _object(event, "object")
    if rows := _objects(job, "rows"):
        name, status, *_ = (*_list(rows[0], "cells"), None, None)
        is_finished = status in _FINISHED
    else:
        name = _object(job, "metadata").get("name")
        is_finished = _parse_job_result(_object(job, "status")) is not None
    if is_finished == (event.get("type") == "DELETED") or not isinstance(name, str):
        return None
    return name or None


def _columns(table: Json) -> list[object]:
    """Return the names of a table's first columns, as many as are read."""
    return [each.get("name") for each in _objects(table, "columnDefinitions")][: len(_COLUMNS)]


def _object(raw: Mapping[str, Any], field: str) -> Json:
    value = raw.get(field)
    # kopf gives views of its own, which are mappings and no dictionaries.
    return dict(value) if isinstance(value, Mapping) else {}


def _list(raw: Json, field: str) -> Sequence[object]:
    value = raw.get(field)
    return value if isinstance(value, list | tuple) else ()


def _objects(raw: Json, field: str) -> list[Json]:
    return [dict(each) for each in _list(raw, field) if isinstance(each, Mapping)]


def _text(raw: Mapping[str, Any], field: str) -> str:
    value = raw.get(field)
    return value[:_TEXT_LIMIT] if isinstance(value, str) else ""


def _count(raw: Json, field: str, default: int = 0) -> int:
    value = raw.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    return default


def _time(raw: Json, field: str) -> datetime | None:
    return parse_instant(_text(raw, field))
