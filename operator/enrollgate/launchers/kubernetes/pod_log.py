"""The log of a run's pods, for people who ask for it (`enrollgate logs`).

A run has a pod for each attempt. The operator's own requests do not read logs like this one.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import urllib3
from kubernetes import client

from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, ClusterNotConfigured, connect
from enrollgate.launchers.kubernetes.job_client import JobClient
from enrollgate.launchers.kubernetes.request_pool import RequestPool
from enrollgate.launchers.kubernetes.tls import use_without_strict
from enrollgate.launchers.kubernetes.views import WORKER, PodView

# Seconds to connect, and between two lines of a log that is followed.
_CONNECT_TIMEOUT = 5.0
_FOLLOW_TIMEOUT = 7 * 86_400.0


class NoPodLog(Exception):
    """There is no log to read; the message says why."""


def read_pod_logs(namespace: str, name: str, *, follow: bool) -> Iterator[str]:
    """Yield the lines of the logs of a run's pods, oldest pod first, each after a line with its
    name.

    With `follow`, wait for more of the last pod's log until it ends. Raises NoPodLog.
    """
    random = Random()  # noqa: S311 -- only spreads retries
    try:
        # Nobody waits in front of a terminal for a server that is away: one attempt is enough.
        api, _ = connect(random=random, sleep=lambda _seconds: True, connections=2)
    except ClusterNotConfigured as error:
        raise NoPodLog(str(error)) from error
    pool = RequestPool(1)
    try:
        jobs = JobClient(api, namespace, pool, lambda: None)
        job = jobs.find(name)
        pods = jobs.pods_by_job({name: job.uid if job else None})[name]
        if not pods:
            what = "its Job has no pod" if job else "its Job and its pods are gone"
            raise NoPodLog(what)
        pods.sort(key=lambda pod: pod.created)
        for pod in pods:
            yield f"==> pod {pod.name} <=="
            yield from _read(api, namespace, pod, follow=follow and pod is pods[-1])
    except LauncherUnavailable as error:
        raise NoPodLog(str(error)) from error
    finally:
        pool.close()
        api.close()


def _read(api: Api, namespace: str, pod: PodView, *, follow: bool) -> Iterator[str]:
    own = client.ApiClient(api.configuration)
    use_without_strict(own)
    try:
        response: Any = client.CoreV1Api(own).read_namespaced_pod_log(
            pod.name,
            namespace,
            container=WORKER,
            follow=follow,
            _preload_content=False,
            _request_timeout=(_CONNECT_TIMEOUT, _FOLLOW_TIMEOUT if follow else 30.0),
        )
        left = b""
        for part in response.stream(2**16, decode_content=True):
            *lines, left = (left + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if left:
            yield left.decode(errors="replace")
    except client.ApiException as error:
        refusal = ApiError.parse(error.status or 0, str(error.body or "").encode())
        raise NoPodLog(f"pod {pod.name} has no log: {refusal.message}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise NoPodLog(f"the log of pod {pod.name} broke off: {type(error).__name__}") from error
    finally:
        own.close()
        own.rest_client.close()
