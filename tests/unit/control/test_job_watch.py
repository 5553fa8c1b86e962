"""kopf gets the names of the runs that need a pass, and of the Jobs nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from enrollgate.control.job_watch import JobWatchMiddleware, changed_runs, digest_lines

COMPLETE = [{"type": "Complete", "status": "True"}]
FAILED = [{"type": "FailureTarget", "status": "True"}, {"type": "Failed", "status": "True"}]


def line(kind: str, name: str, conditions: list[dict[str, str]] | None = None) -> bytes:
    """Return the line of a watch as the API server writes it (Go's encoding/json)."""
    rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
    job = {
        "kind": "Job",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": f"9{name[-1]}"},
        "spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}},
        "status": {"conditions": conditions} if conditions else {"active": 1},
    }
    return json.dumps({"type": kind, "object": job}, separators=(",", ":")).encode()


COLUMNS = ["Name", "Status", "Completions", "Duration", "Age", "Containers", "Images", "Selector"]


def row(kind: str, name: str, status: str, columns: Sequence[str] | None = None) -> bytes:
    """Return the line of a watch of tables, as the API server 1.37 writes it."""
    cells = [name, status, "0/1", "", "0s", "worker", "enrollgate:0.1.0", f"uid={name}"]
    table = {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": f"9{name[-1:]}"},
        "columnDefinitions": [{"name": each, "type": "string"} for each in columns or ()] or None,
        "rows": [{"cells": cells[: len(columns or cells)], "object": None}],
    }
    return json.dumps({"type": kind, "object": table}, separators=(",", ":")).encode()


BOOKMARK = b'{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"99"}}}'
GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410}}'


def names(digest: bytes) -> list[str]:
    return [name for each in digest.splitlines() for name in changed_runs(json.loads(each))]


@pytest.mark.parametrize(
    ("event", "is_named"),
    [
        (line("ADDED", "a-1"), False),
        (line("MODIFIED", "a-1"), False),
        (line("MODIFIED", "a-1", FAILED[:1]), False),
        (line("MODIFIED", "a-1", [{"type": "Complete", "status": "False"}]), False),
        (line("MODIFIED", "a-1", COMPLETE), True),
        (line("MODIFIED", "a-1", FAILED), True),
        (line("ADDED", "a-1", COMPLETE), True),
        (line("DELETED", "a-1"), True),
        # It got our label: it is recorded.
        (line("DELETED", "a-1", COMPLETE), False),
        (row("ADDED", "a-1", "Running"), False),
        (row("MODIFIED", "a-1", "Suspended"), False),
        (row("MODIFIED", "a-1", "FailureTarget"), False),
        (row("MODIFIED", "a-1", "SuccessCriteriaMet"), False),
        (row("MODIFIED", "a-1", "Terminating"), False),
        (row("MODIFIED", "a-1", "Complete"), True),
        (row("MODIFIED", "a-1", "Failed"), True),
        (row("ADDED", "a-1", "Complete"), True),
        (row("DELETED", "a-1", "Running"), True),
        (row("DELETED", "a-1", "Terminating"), True),
        (row("DELETED", "a-1", "Failed"), False),
        # Another server may write spaces.
        (json.dumps(json.loads(line("MODIFIED", "a-1", COMPLETE))).encode(), True),
        (json.dumps(json.loads(line("MODIFIED", "a-1")), indent=None).encode(), False),
    ],
)
def test_only_events_that_need_a_pass_are_named(event: bytes, is_named: bool) -> None:
    assert names(digest_lines([event])) == (["a-1"] if is_named else [])


def test_events_of_one_chunk_become_one_event_with_the_last_version() -> None:
    events = [line("MODIFIED", f"a-{n}", COMPLETE) for n in range(3)]
    digest = digest_lines([events[0], line("MODIFIED", "a-7"), *events[1:], BOOKMARK])
    first, second = digest.splitlines()
    assert names(first) == ["a-0", "a-1", "a-2"]
    assert json.loads(first)["object"]["metadata"]["resourceVersion"] == "92"
    assert second == BOOKMARK


@pytest.mark.parametrize("event", [BOOKMARK, GONE, b"[]", b"not JSON", b'"DELETED"', b""])
def test_what_is_no_event_of_a_job_is_left_to_kopf(event: bytes) -> None:
    assert digest_lines([event]) == event + b"\n"


@pytest.mark.parametrize("name", [None, 7, ""])
def test_odd_event_of_a_job_names_nothing(name: object) -> None:
    odd = {"type": "DELETED", "object": {"metadata": {"name": name}}}
    assert digest_lines([json.dumps(odd).encode(), b'{"type":"DELETED"}']) == b""


class Server:
    """An API server that answers discovery, a list and a watch of Jobs in odd chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.queries: list[dict[str, str]] = []
        self.accepted: list[str] = []
        self._chunks = chunks

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        self.accepted.append(request.headers["Accept"])
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})
        answer = web.StreamResponse()
        await answer.prepare(request)
        for chunk in self._chunks:
            await answer.write(chunk)
            await asyncio.sleep(0.01)
        return answer


async def ask(server: Server, *paths: str) -> tuple[list[bytes], int]:
    """Return what kopf reads of these answers, and how often a list was reported."""
    listed = list[None]()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    middleware = JobWatchMiddleware(lambda: listed.append(None))
    try:
        chunks = list[bytes]()
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            for path in paths:
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    stream: AsyncIterator[Any] = answer.content.iter_chunked(1 << 20)
                    chunks += [chunk async for chunk in stream]
        return chunks, len(listed)
    finally:
        await runner.cleanup()


JOBS = "/apis/batch/v1/namespaces/courses/jobs"


def test_a_watch_yields_digests_wherever_the_chunks_end() -> None:
    whole = b"\n".join(
        [line("MODIFIED", f"a-{n}", COMPLETE if n % 3 == 0 else None) for n in range(9)]
        + [BOOKMARK, b""]
    )
    for size in (1000, 333, 97):
        server = Server([whole[at : at + size] for at in range(0, len(whole), size)])
        chunks, listed = asyncio.run(ask(server, f"{JOBS}?watch=true&labelSelector=x"))
        lines = b"".join(chunks).splitlines()
        assert [name for each in lines if each != BOOKMARK for name in names(each)] == [
            "a-0",
            "a-3",
            "a-6",
        ]
        assert lines[-1] == BOOKMARK and listed == 0
        assert server.queries == [{"watch": "true", "labelSelector": "x", "includeObject": "None"}]


def test_watch_of_a_server_that_prints_no_status_is_opened_for_jobs() -> None:
    """A server before Kubernetes 1.31 has no column `Status`."""
    columns = ["Name", "Completions", *COLUMNS[3:]]
    server = Server([row("ADDED", "a-1", "1/1", columns) + b"\n", BOOKMARK])
    watch = f"{JOBS}?watch=true&labelSelector=x"
    asyncio.run(ask(server, watch, watch))
    first, second = server.queries
    assert first == {**second, "includeObject": "None"}
    assert "as=Table" in server.accepted[0] and "as=Table" not in server.accepted[1]


def test_watch_of_tables_is_read_from_its_first_event_on() -> None:
    lines = [row("ADDED", "a-1", "Complete", COLUMNS), row("MODIFIED", "a-2", "Failed"), b""]
    chunks, _ = asyncio.run(ask(Server([b"\n".join(lines)]), f"{JOBS}?watch=true"))
    assert names(b"".join(chunks)) == ["a-1", "a-2"]


def test_a_list_is_empty_and_reported() -> None:
    server = Server([])
    _, listed = asyncio.run(ask(server, f"{JOBS}?limit=500"))
    assert listed == 1
    assert server.queries == [{"limit": "500", "fieldSelector": "metadata.name=-"}]


def test_discovery_is_left_alone() -> None:
    server = Server([])
    _, listed = asyncio.run(ask(server, "/apis/batch/v1"))
    assert listed == 0 and server.queries == [{}]
