"""What kopf sees of the Jobs: the names of those that need a pass, and nothing else.

A Job has eight events in its life, of 8 KB each, and a pass is needed after one of them. kopf would
parse each, and keep a task and a memory for each Job. So its HTTP session is ours. It asks for what
`kubectl get jobs --watch` prints, 300 bytes, and all that kopf gets of one chunk is one small event
with the names of the runs that have changed. A server before Kubernetes 1.31 prints no status of a
Job: its watch is opened again for the Jobs themselves. Bookmarks and errors pass as they are:
connecting, resuming and starting over (HTTP 410) are kopf's.

kopf also lists the Jobs before it watches them. It needs the list's resourceVersion only, since a
pass lists them itself. So that list is empty, and a full pass follows it: it finds what ended
before the watch began.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, StreamReader

from enrollgate.launchers.kubernetes import TABLE, changed_run, prints_status

_JOBS = "/apis/batch/v1/"
# No object can have this name, and the server looks for one object only.
_NO_JOB = "metadata.name=-"
_KINDS = ("ADDED", "MODIFIED", "DELETED")
# All digests are of one object, so that kopf keeps one task and one memory.
_DIGEST_OF = {"uid": "changed-runs", "name": "changed-runs"}


class JobWatchMiddleware:
    """Sorts the answers to kopf's requests about Jobs.

    `listed` is called when the API server has answered kopf's list.
    """

    def __init__(self, listed: Callable[[], None]) -> None:
        self._listed = listed
        self._prints_status = True

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """Send a request and return its answer. See aiohttp's client middleware."""
        is_about_jobs = _JOBS in request.url.path and request.url.path.endswith("/jobs")
        is_watch = "watch" in request.url.query
        if is_about_jobs and not is_watch:
            request.url = request.url.update_query(fieldSelector=_NO_JOB)
        elif is_about_jobs and self._prints_status:
            request.headers["Accept"] = TABLE
            request.url = request.url.update_query(includeObject="None")
        answer = await send(request)
        if is_about_jobs and answer.status == HTTPStatus.OK:
            if is_watch:
                # kopf reads the lines of a watch by `iter_chunked` alone.
                digests: Any = _Digests(answer.content, self._ask_for_jobs)
                answer.content = digests
            else:
                self._listed()
        return answer

    def _ask_for_jobs(self) -> None:
        self._prints_status = False


class _Digests:
    """The content of a watch's answer, whose lines are digested. The rest is aiohttp's.

    `unreadable` is called if the lines do not say how the Jobs are. Then nothing is read of them,
    and the watch ends: kopf opens it again where it was.
    """

    def __init__(self, content: StreamReader, unreadable: Callable[[], None]) -> None:
        self._content = content
        self._unreadable = unreadable

    def __getattr__(self, name: str) -> object:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield the digest of each chunk of `size` bytes at most."""
        rest, is_first = b"", True
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if lines and is_first:
                is_first = False
                if not prints_status(_parse(lines[0])):
                    self._unreadable()
                    return
            if digest := digest_lines(lines):
                yield digest
        if rest:
            yield rest


def digest_lines(lines: Iterable[bytes]) -> bytes:
    """Return the lines that kopf is to read in place of these lines of a watch of Jobs.

    One line names the runs that have changed, in `changed`. What is no event of a Job follows as it
    is.
    """
    names, version, others = list[str](), "", list[bytes]()
    for line in lines:
        event = _parse(line)
        if event.get("type") not in _KINDS:
            others.append(line)
        elif name := changed_run(event):
            names.append(name)
            match event:
                case {"object": {"metadata": {"resourceVersion": str(newest)}}}:
                    version = newest
    if names:
        metadata = {**_DIGEST_OF, "resourceVersion": version}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
        others.insert(0, orjson.dumps({"type": "MODIFIED", "object": {**job, "changed": names}}))
    return b"".join(other + b"\n" for other in others)


def _parse(line: bytes) -> dict[str, Any]:
    """Parse an event of a watch; empty if it is none."""
    try:
        event = orjson.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def changed_runs(event: Mapping[str, Any]) -> list[str]:
    """Return the runs that a digest names."""
    return list(event["object"].get("changed", ()))
