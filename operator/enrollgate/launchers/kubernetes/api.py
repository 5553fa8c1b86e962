"""HTTP to the Kubernetes API server, by the official client's configuration and connection pool.

In: method, path, JSON. Out: JSON, or one of three errors. The client's own call path copies every
body, and builds models from every answer: several times the cost of the request itself. Here, the
pool sends bytes, orjson reads and writes them, and `job_client` reads what is needed.

The client does not retry (no retries by default, and never a POST or PATCH). So retries happen
here, in one place: for 429, 5xx and broken connections, with back-off and jitter, honouring
Retry-After. Every request of ours may be sent twice: names are deterministic, deletions carry the
UID.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, Self, cast
from urllib.parse import quote, urlencode

import orjson
import tenacity
import urllib3
from kubernetes import client, config

from enrollgate.common.backoff import Backoff, delay
from enrollgate.common.retry_after import retry_after
from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes.tls import find_certificate_error, use_without_strict

# Forms of an answer. The metadata of an object is half of a Job. A table has a row of a few texts
# for each object: https://kubernetes.io/docs/reference/using-api/api-concepts/
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"
TABLE = f"{JSON};as=Table;g=meta.k8s.io;v=v1,{JSON}"
# As kubectl asks for a log: a refusal is JSON.
TEXT = f"{JSON}, */*"
# Objects per page of a listing.
PAGE_SIZE = 500
# How many times a request is sent before the API server counts as unavailable.
MAX_ATTEMPTS = 4
# Bytes of a text, at most.
TEXT_LIMIT = 2**17
# Seconds that reading a text may take: nobody waits for it.
TEXT_TIMEOUT = 5.0
# Seconds to connect, and to wait for an answer.
TIMEOUT = (5.0, 30.0)
# Seconds between two looks at whether the credentials are to be renewed.
RENEWAL_INTERVAL = 1.0
_BACKOFF = Backoff(base=0.25, factor=3.0, cap=5.0)
# Seconds of a Retry-After that are waited within a pass. A longer one ends the pass, and the loop
# waits.
_MAX_WAIT = 30.0
_TRANSIENT = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

# A Kubernetes object as it is sent; only `job_client` reads it.
Json = dict[str, Any]
# Seconds for connecting and answering together, or for each of the two.
_Timeout = float | tuple[float, float]


class ClusterNotConfigured(Exception):
    """No service account and no usable kubeconfig: there is no cluster to talk to."""


class ApiError(Exception):
    """The API server refused a request, and would refuse it again.

    `reason` is the server's own word, such as `AlreadyExists`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"HTTP {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def parse(cls, status: int, data: bytes) -> Self:
        """Read the body of a refusal, which a proxy may have written."""
        match _parse(data):
            case {"reason": str(reason), "message": str(message)}:
                return cls(status, reason, message)
            case {"message": str(message)}:
                return cls(status, "", message)
        return cls(status, "", data[:200].decode(errors="replace"))


class RetryableError(Exception):
    """One attempt of a request failed; the next one may succeed. Never leaves this module.

    `retry_after` is the seconds that the server asked us to wait, 0 if it did not. `is_server_well`
    is true if only this request failed (HTTP 500, most often an admission webhook) and others may
    succeed.
    """

    def __init__(
        self, message: str, *, retry_after: float = 0.0, is_server_well: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_server_well = is_server_well


@dataclass(frozen=True, slots=True)
class ConnectionDetails:
    """The API server's address, and the credentials for it."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None


class Api:
    """Sends requests to one API server, from any thread. Times are seconds.

    `sleep` waits so many seconds, and returns true if a stop interrupted it: then nothing is
    retried. `on_error` is called with the kind of each failed try (`_count_refusal`).
    """

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        random: Random,
        sleep: Callable[[float], object],
        monotonic: Callable[[], float] = time.monotonic,
        on_error: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        self._on_error = on_error
        self.configuration = configuration
        self._client = client.ApiClient(configuration)
        use_without_strict(self._client)
        self._random = random
        self._sleep = sleep
        self._monotonic = monotonic
        self._credentials = dict[str, str]()
        self._renew_at = -math.inf

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        accept: str = JSON,
        timeout: float | None = None,
    ) -> Json:
        """Send a request, with retries, and return the object that the server answers.

        `accept` is the form of the answer, one of those above. A server may answer JSON instead.
        `timeout` bounds all attempts together, in seconds; a server that hangs is then tried twice.

        Raises ApiError if the server refuses the request, LauncherRefused if it fails at this
        request, and LauncherUnavailable if it cannot be reached or stays overloaded.
        """
        deadline = None if timeout is None else self._monotonic() + timeout

        def send_once() -> Json:
            attempt_timeout: _Timeout = TIMEOUT
            if timeout is not None and deadline is not None:
                left = deadline - self._monotonic()
                attempt_timeout = max(0.001, min(sum(TIMEOUT), timeout / 2, left))
            return self._send_once(method, path, query, body, accept, attempt_timeout)

        try:
            return self._send_with_retries(send_once, deadline)
        except RetryableError as error:
            kind = LauncherRefused if error.is_server_well else LauncherUnavailable
            raise kind(
                f"the Kubernetes API server at {self.configuration.host} "
                f"did not serve {method} {path}: {error}",
                retry_after=error.retry_after,
            ) from error

    def _send_with_retries(self, send_once: Callable[[], Json], deadline: float | None) -> Json:
        """Send a request until it is served. Raises the error of the last attempt."""
        try:
            return send_once()  # tenacity takes as long as a fourth of this
        except RetryableError as error:
            failed = [error]

        def send_again() -> Json:
            if failed:
                raise failed.pop()
            return send_once()

        def next_wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return getattr(error, "retry_after", 0.0) or delay(
                state.attempt_number, _BACKOFF, self._random
            )

        def is_last(state: tenacity.RetryCallState) -> bool:
            wait = state.upcoming_sleep
            ends_late = deadline is not None and self._monotonic() + wait >= deadline
            return state.attempt_number == MAX_ATTEMPTS or wait > _MAX_WAIT or ends_late

        def sleep_or_raise(state: tenacity.RetryCallState) -> None:
            if self._sleep(state.upcoming_sleep) and state.outcome is not None:
                state.outcome.result()  # raises the error of the last attempt

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(RetryableError),
            wait=next_wait,
            stop=is_last,
            before_sleep=sleep_or_raise,
            sleep=lambda _seconds: None,  # sleep_or_raise has waited
            reraise=True,
        )
        return retrying(send_again)

    def read_text(self, path: str, *, query: Mapping[str, str]) -> str:
        """Send a GET request once, and return the text that the server answers.

        What is beyond TEXT_LIMIT is left out, and so is what has not come after TEXT_TIMEOUT.

        Raises ApiError if the server refuses the request or cannot serve it now, and
        LauncherUnavailable if it cannot be reached.
        """
        try:
            status, _, data = self._send("GET", path, query, None, TEXT, TEXT_TIMEOUT)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._on_error("unreachable")
            raise LauncherUnavailable(f"{path}: {type(error).__name__}: {error}") from error
        if status >= HTTPStatus.BAD_REQUEST:
            self._count_refusal(status)
            raise ApiError.parse(status, data)
        return data.decode(errors="replace")

    def pages(self, path: str, *, query: Mapping[str, str]) -> Iterator[list[Json]]:
        """Yield all objects of a listing, page by page, as of one moment. A failure raises.

        See `read_pages`.
        """
        for answer in self.read_pages(path, "items", query=query, limit=PAGE_SIZE):
            yield answer["items"] or []

    def read_pages(
        self, path: str, items: str, *, query: Mapping[str, str], limit: int, accept: str = JSON
    ) -> Iterator[Json]:
        """Yield the pages of a listing as the server answers them, with `limit` items at most.

        `items` is the name of the field that has them.

        Raises LauncherUnavailable also if the listing took longer than the server keeps its state
        (HTTP 410), or if it is none: list again.
        """
        token: object = ""
        while True:
            more = {"continue": str(token)} if token else {}
            try:
                answer = self.request(
                    "GET", path, query={**query, "limit": str(limit), **more}, accept=accept
                )
            except ApiError as error:
                if error.status == HTTPStatus.GONE:
                    raise LauncherUnavailable(
                        f"listing {path} took too long: {error.message}"
                    ) from error
                raise
            metadata = answer.get("metadata")
            last, token = token, metadata.get("continue") if isinstance(metadata, dict) else ""
            found = answer.get(items, "none") or []
            # A part of a listing must not pass for the whole: what it lacks would count as gone.
            is_listing = isinstance(found, list) and all(isinstance(each, dict) for each in found)
            if not is_listing or not isinstance(token or "", str) or (token and token == last):
                raise LauncherUnavailable(f"listing {path}: the answer is not a page of a listing")
            yield answer
            if not token:
                return

    def connection_details(self) -> ConnectionDetails:
        """Return the server and the credentials for another client, with the current token."""
        own = self.configuration
        token = (
            own.get_api_key_with_prefix("BearerToken")
            or own.get_api_key_with_prefix("authorization")
            or ""
        )
        return ConnectionDetails(
            server=own.host,
            ca_path=own.ssl_ca_cert,
            insecure=not own.verify_ssl,
            token=token.removeprefix("Bearer ").removeprefix("bearer ") or None,
            certificate_path=own.cert_file,
            private_key_path=own.key_file,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._client.rest_client.close()

    def _send_once(  # noqa: PLR0917 -- one request
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        accept: str,
        timeout: _Timeout,
    ) -> Json:
        """Send a request once. Raises RetryableError, or ApiError for a permanent refusal."""
        try:
            status, headers, data = self._send(method, path, query, body, accept, timeout)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._on_error("unreachable")
            reason = getattr(error, "reason", None)
            cause = reason if isinstance(reason, BaseException) else error
            refused = find_certificate_error(error)
            raise RetryableError(refused or f"{type(error).__name__}: {cause}") from error
        if status < HTTPStatus.BAD_REQUEST:
            answer = _parse(data) if data else {}
            if isinstance(answer, dict):
                return answer
            # A proxy may have answered instead of the server.
            self._on_error("server")
            raise RetryableError(f"its answer is not a JSON object: {data[:80]!r}")
        self._count_refusal(status)
        refusal = ApiError.parse(status, data)
        if status not in _TRANSIENT:
            raise refusal
        raise RetryableError(
            str(refusal),
            retry_after=retry_after(headers.get("Retry-After"), headers.get("Date")) or 0.0,
            is_server_well=status == HTTPStatus.INTERNAL_SERVER_ERROR,
        )

    def _count_refusal(self, status: int) -> None:
        """Count a refusal by its kind.

        That an object exists, or does not, is an answer; so is 400 for the log of a pod that has
        not begun.
        """
        match status:
            case HTTPStatus.TOO_MANY_REQUESTS:
                self._on_error("throttled")
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                self._on_error("denied")
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNPROCESSABLE_ENTITY:
                self._on_error("invalid")
            case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self._on_error("server")

    def _send(  # noqa: PLR0917 -- one request
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        accept: str,
        timeout: _Timeout,
    ) -> tuple[int, Mapping[str, str], bytes]:
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        url = f"{self.configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query, quote_via=quote)}"
        now = self._monotonic()
        if now >= self._renew_at:
            # This renews a token that expires. It takes a tenth of a request's time.
            credentials = cast("Json", self.configuration.auth_settings()).values()
            self._credentials = {
                each["key"]: each["value"] for each in credentials if each["value"]
            }
            self._renew_at = now + RENEWAL_INTERVAL
        connect, read = timeout if isinstance(timeout, tuple) else (None, None)
        response = self._client.rest_client.pool_manager.urlopen(
            method,
            url,
            body=None if body is None else orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS),
            headers={
                **self._client.default_headers,
                "Accept": accept,
                "Content-Type": content_type,
                **self._credentials,
            },
            timeout=urllib3.Timeout(
                total=None if isinstance(timeout, tuple) else timeout, connect=connect, read=read
            ),
            preload_content=accept != TEXT,
        )
        if accept != TEXT:
            return response.status, response.headers, response.data
        # A kubelet may send more than it was asked for, or a byte now and then.
        text, until = b"", self._monotonic() + TEXT_TIMEOUT
        with closing(response):
            while len(text) < TEXT_LIMIT and self._monotonic() < until:
                if not (part := response.read1(TEXT_LIMIT - len(text))):
                    break
                text += part
        return response.status, response.headers, text


def _parse(data: bytes) -> object:
    """Parse JSON; None if it is none. What orjson does not accept (half a surrogate) json may."""
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


def connect(
    *,
    random: Random,
    sleep: Callable[[float], object],
    connections: int,
    on_error: Callable[[str], None] = lambda _kind: None,
) -> tuple[Api, str]:
    """Connect to the cluster of this process. Returns the API and the default namespace.

    In a pod, that is the pod's own cluster and namespace; elsewhere, the current context of the
    kubeconfig. Raises ClusterNotConfigured.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError):
        try:
            config.load_kube_config(client_configuration=configuration)
            _, context = config.list_kube_config_contexts()
        except (config.ConfigException, OSError, TypeError) as error:
            raise ClusterNotConfigured(
                "no Kubernetes cluster is configured: run in a pod with a service account, "
                f"or set KUBECONFIG to a kubeconfig file ({error})"
            ) from error
        namespace = str(context["context"].get("namespace") or "default")
    configuration.connection_pool_maxsize = connections
    configuration.retries = False
    return Api(configuration, random=random, sleep=sleep, on_error=on_error), namespace
