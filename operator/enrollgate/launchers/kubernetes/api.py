"""HTTP to the Kubernetes API server, through the official client's configuration and connection pool.

The client's generated methods turn every answer into models, which costs more than the request itself; we read the JSON and
let `views` pick what is needed. Nothing is retried by the client (its source: no retries by default, POST and PATCH never), so
it is done here, in one place: 429, 5xx and broken connections, with back-off and jitter, honouring Retry-After. Every request of
ours may be sent twice: names are deterministic, deletions carry the uid.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import urllib3
from kubernetes import client, config

from enrollgate.common.backoff import Backoff, delay
from enrollgate.common.retry_after import retry_after
from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes.tls import use_without_strict

PAGE = 500
"""Objects asked for at once when listing."""
TRIES = 4
"""How often a request is sent before the API server counts as away."""
TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and to wait for an answer."""
_BACKOFF = Backoff(base=0.25, factor=3.0, cap=5.0)
_LONGEST_WAIT = 30.0
"""Seconds of a Retry-After that are honoured within one pass; a longer one gives the pass up, and the loop waits."""
_TRANSIENT = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TOO_LARGE_CONTINUE = HTTPStatus.GONE

Json = dict[str, Any]
"""A Kubernetes object as it travels; read by `views` alone."""
_Timeout = float | tuple[float, float]
"""Seconds: for both, or to connect and to wait for an answer."""


class ClusterNotConfigured(Exception):
    """There is neither a service account nor a kubeconfig to reach a cluster with, or it cannot be used."""


class ApiError(Exception):
    """The API server refused a request, and would again."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"HTTP {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        """The server's word, such as `AlreadyExists`."""
        self.message = message


@dataclass(frozen=True, slots=True)
class RetryableError:
    """Why a request was not served, and may be when it is sent again."""

    why: str
    asked: float = 0.0
    """Seconds that the server wants to be left alone."""
    refuses: bool = False
    """Whether the server is well, and only this request is not (HTTP 500: an admission webhook, most often)."""


@dataclass(frozen=True, slots=True)
class ConnectionDetails:
    """Where the API server is, and who we are there."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None


class Api:
    """Requests to one API server, from any thread. Seconds everywhere. `sleep` is true if it was cut short by a stop: then
    nothing is tried again.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        random: Random,
        sleep: Callable[[float], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.configuration = configuration
        self._client = client.ApiClient(configuration)
        use_without_strict(self._client)
        self._random = random
        self._sleep = sleep
        self._monotonic = monotonic

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        within: float | None = None,
    ) -> Json:
        """Sends one request, several times if it must be, and gives the object that is answered.

        With `within`, all of that takes so many seconds at most, and a server that hangs is tried twice in them. Raises ApiError
        if it is refused, LauncherRefused if the server fails at it, LauncherUnavailable if the server cannot be reached or stays
        overloaded.
        """
        until = None if within is None else self._monotonic() + within
        attempt = 0
        while True:
            attempt += 1
            answer = self._try(method, path, query, body, self._timeout(within, until))
            if not isinstance(answer, RetryableError):
                return answer
            wait = answer.asked or delay(attempt, _BACKOFF, self._random)
            is_late = until is not None and self._monotonic() + wait >= until
            if attempt == TRIES or wait > _LONGEST_WAIT or is_late or self._sleep(wait):
                raise self._given_up(f"{method} {path}", answer)

    def _given_up(self, what: str, trouble: RetryableError) -> LauncherUnavailable:
        message = f"the Kubernetes API server at {self.configuration.host} did not serve {what}: {trouble.why}"
        kind = LauncherRefused if trouble.refuses else LauncherUnavailable
        return kind(message, retry_after=trouble.asked)

    def _timeout(self, within: float | None, until: float | None) -> _Timeout:
        if within is None or until is None:
            return TIMEOUT
        return max(0.001, min(sum(TIMEOUT), within / 2, until - self._monotonic()))

    def pages(self, path: str, *, query: Mapping[str, str]) -> Iterator[list[Json]]:
        """All objects of a listing, page by page, as of one moment. Never a part: what fails raises.

        A listing that takes longer than the server remembers (410) raises LauncherUnavailable: the next pass lists again.
        """
        token = ""
        while True:
            more = {"continue": token} if token else {}
            try:
                answer = self.request("GET", path, query={**query, "limit": str(PAGE), **more})
            except ApiError as error:
                if error.status == _TOO_LARGE_CONTINUE:
                    raise LauncherUnavailable(
                        f"listing {path} took too long: {error.message}"
                    ) from error
                raise
            yield answer.get("items") or []
            token = (answer.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    def connection_details(self) -> ConnectionDetails:
        """The same server and credentials for another client; the token as it is by now."""
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
        """Closes the connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the client types only its models
        self._client.rest_client.close()

    def _try(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        timeout: _Timeout,
    ) -> Json | RetryableError:
        """Sends it once. Raises ApiError for what would be refused again."""
        try:
            status, headers, data = self._send(method, path, query, body, timeout)
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            return RetryableError(f"{type(error).__name__}: {_root_cause(error)}")
        if status < HTTPStatus.BAD_REQUEST:
            return _decoded(data)
        refusal = _refusal(status, data)
        if status not in _TRANSIENT:
            raise refusal
        asked = retry_after(headers.get("Retry-After"), headers.get("Date")) or 0.0
        return RetryableError(
            str(refusal), asked, refuses=status == HTTPStatus.INTERNAL_SERVER_ERROR
        )

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        timeout: _Timeout,
    ) -> tuple[int, Mapping[str, str], bytes]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        arguments = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*arguments, _request_timeout=timeout)
        return int(response.status), response.headers, response.read()  # type: ignore[no-untyped-call]  # as above


def _decoded(data: bytes) -> Json | RetryableError:
    """What something in between, such as a proxy, answers in the server's place is no answer."""
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = None
    return (
        answer
        if isinstance(answer, dict)
        else RetryableError(f"its answer is no object: {data[:80]!r}")
    )


def _refusal(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
        return ApiError(status, str(answer.get("reason") or ""), str(answer.get("message") or ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", data[:200].decode(errors="replace"))


def _root_cause(error: BaseException) -> BaseException:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else error


def connect(
    *, random: Random, sleep: Callable[[float], object], connections: int
) -> tuple[Api, str]:
    """The API server this process belongs to (in a pod: its own cluster; else the kubeconfig's current context), and the
    namespace that is ours there by default. Raises ClusterNotConfigured.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # as above
        namespace = _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError):
        try:
            config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # as above
            _, context = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]  # as above
        except (config.ConfigException, OSError, TypeError) as error:
            raise ClusterNotConfigured(
                "no Kubernetes cluster is configured: run in a pod with a service account, or let KUBECONFIG name a "
                f"kubeconfig file ({error})"
            ) from error
        namespace = str(context["context"].get("namespace") or "default")
    configuration.connection_pool_maxsize = connections
    configuration.retries = False
    return Api(configuration, random=random, sleep=sleep), namespace
