"""The settings of Kubernetes mode: how Jobs are built, and how the operator runs in a cluster."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

from enrollgate.settings.types import ObjectName, Seconds, SomePath


def _check_image(value: str) -> str:
    if not value.strip() or re.search(r"\s", value):
        raise ValueError(
            "write an image reference without spaces, such as registry.example.com/enrollgate:1.0.0"
        )
    return value


class KubernetesSettings(BaseModel):
    """Only read with ENROLLGATE_LAUNCHER=kubernetes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    namespace: ObjectName | None = Field(
        None,
        description="The namespace of the Jobs. Not set: the operator's own namespace, or that of "
        "the kubeconfig.",
    )
    image: Annotated[str, AfterValidator(_check_image)] | None = Field(
        None,
        description="The image of the workers. Required.",
        examples=["registry.example.com/enrollgate:1.0.0"],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent",
        description="When nodes pull the image: `Always`, `IfNotPresent` or `Never`.",
    )
    job_template: SomePath | None = Field(
        None,
        description="A YAML file with a partial batch/v1 Job that is merged over each Job. Maps "
        "are merged; lists of named things (containers, volumes, mounts, variables) are merged by "
        "name; other lists are replaced; null removes. The container's name is `worker`.",
        examples=["/etc/enrollgate/job-template/job.yaml"],
    )
    cookies_secret: ObjectName | None = Field(
        None,
        description="The Secret with the accounts' cookies files, one per key (see "
        "ENROLLGATE_COOKIES_DIR).",
    )
    drive_secret: ObjectName | None = Field(
        None, description="The Secret whose key `credentials.json` holds the Google credentials."
    )
    destination_claim: ObjectName | None = Field(
        None,
        description="The PersistentVolumeClaim that is mounted at the path of a `directory:` "
        "destination.",
    )
    service_account: ObjectName | None = Field(
        None,
        description="The workers' service account. They get no token unless the job template says "
        "so.",
    )
    scratch_volume: ByteSize = Field(
        ByteSize(10 * 2**30),
        ge=2**20,
        description="The size limit of a worker's scratch volume. It must be more than "
        "ENROLLGATE_SCRATCH_LIMIT: one file that is larger than that limit is still downloaded, "
        "alone.",
    )
    start_timeout: Seconds = Field(
        900, description="Seconds that a Job may take until its pod runs."
    )
    create_concurrency: int = Field(
        8, ge=1, le=100, description="Maximum number of requests to the API server at a time."
    )
    progress_rate: float = Field(
        5.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Requests a second, at most, by which the operator reads the progress of live "
        "pods from their logs, one pod after the other. 0: progress is not read.",
    )
    leader_election: bool = Field(
        False,
        description="Whether replicas elect, by a Lease, the one that works. Without it nothing is "
        "done twice, either.",
    )
    lease_name: ObjectName | None = Field(
        None, description="The name of the Lease. Not set: the installation's name."
    )
    deployment: ObjectName | None = Field(
        None,
        description="The Deployment of the operator, in the namespace of the Jobs: Events about "
        "holds and pauses are written for it. Not set: there are none.",
    )
    lease_duration: Seconds = Field(
        15, ge=1, le=3600, description="Seconds after which another replica replaces a dead leader."
    )
