"""`JobSettings` for tests: the defaults of the product, and what the test changes."""

from typing import Any

from enrollgate.launchers.kubernetes import JobSettings
from enrollgate.settings.kubernetes import KubernetesSettings
from enrollgate.settings.operator import Settings
from enrollgate.settings.worker import WorkerSettings


def job_settings(
    namespace: str = "courses",
    installation: str = "school",
    image: str = "enrollgate:1",
    **changes: Any,
) -> JobSettings:
    """Build them; each change goes to the settings that have a field of that name."""
    worker: dict[str, Any] = {}
    kubernetes: dict[str, Any] = {"image": image}
    own: dict[str, Any] = {
        name: Settings.model_fields[name].get_default()
        for name in ("max_attempts", "run_timeout", "run_ttl")
    }
    for name, value in changes.items():
        if name in WorkerSettings.model_fields:
            worker[name] = value
        elif name in KubernetesSettings.model_fields:
            kubernetes[name] = value
        else:
            own[name] = value
    return JobSettings(
        namespace=namespace,
        installation=installation,
        worker=WorkerSettings(**worker),
        kubernetes=KubernetesSettings(**kubernetes),
        **own,
    )
