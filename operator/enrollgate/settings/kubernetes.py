"""The settings of Kubernetes mode: what the Jobs are made of, and how the operator behaves in a cluster."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

from enrollgate.settings.types import ObjectName, Seconds, SomePath


def _image(value: str) -> str:
    if not value.strip() or re.search(r"\s", value):
        raise ValueError(
            "write an image reference without spaces, such as registry.example.com/enrollgate:1.0.0"
        )
    return value


class KubernetesSettings(BaseModel):
    """Only read with ENROLLGATE_LAUNCHER=kubernetes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    namespace: ObjectName | None = Field(
        None,
        description="The namespace of the Jobs. Not given: the operator's own, or the kubeconfig's.",
    )
    image: Annotated[str, AfterValidator(_image)] | None = Field(
        None,
        description="The image of the workers. Required.",
        examples=["registry.example.com/enrollgate:1.0.0"],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When nodes pull it: `Always`, `IfNotPresent` or `Never`."
    )
    job_template: SomePath | None = Field(
        None,
        description="A YAML file with a partial batch/v1 Job that is merged over each Job: maps merge, lists of named things "
        "(containers, volumes, mounts, variables) merge by name, other lists are replaced, null removes. The container is "
        "`worker`.",
        examples=["/etc/enrollgate/job-template/job.yaml"],
    )
    cookies_secret: ObjectName | None = Field(
        None,
        description="The Secret with the accounts' cookies files, one per key (see ENROLLGATE_COOKIES_DIR).",
    )
    drive_secret: ObjectName | None = Field(
        None, description="The Secret whose key `credentials.json` holds the Google credentials."
    )
    destination_claim: ObjectName | None = Field(
        None,
        description="The PersistentVolumeClaim that is mounted at the path of a `directory:` destination.",
    )
    service_account: ObjectName | None = Field(
        None,
        description="The workers' service account. They get no token unless the job template says so.",
    )
    scratch_volume: ByteSize = Field(
        ByteSize(10 * 2**30),
        ge=2**20,
        description="The size limit of a worker's scratch volume. More than ENROLLGATE_SCRATCH_LIMIT: one file larger than "
        "that limit still passes, alone.",
    )
    start_timeout: Seconds = Field(
        900, description="Seconds that a Job may take to get a running pod."
    )
    create_concurrency: int = Field(
        8, ge=1, le=100, description="Requests to the API server at the same time, at most."
    )
    leader_election: bool = Field(
        False,
        description="Whether replicas agree on one that works, by a Lease. Nothing is done twice without it, either.",
    )
    lease_name: ObjectName | None = Field(
        None, description="The Lease. Not given: the installation's name."
    )
    lease_duration: Seconds = Field(
        15, ge=1, le=3600, description="Seconds after which a replica that is gone is replaced."
    )
