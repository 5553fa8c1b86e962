"""The permissions that the operator needs in its namespace, and whether it has them.

They are those of the chart's Role. In: the API, for `enrollgate doctor`. Out: one check.
"""

from dataclasses import dataclass

from enrollgate.domain.check import Check, failed, ok
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError
from enrollgate.launchers.kubernetes.tls import find_certificate_error

# Every authenticated account may ask this about itself:
# https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True, slots=True)
class Permission:
    """Verbs on one resource; with `name`, on that one object only."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    name: str = ""


def permissions(lease: str | None, deployment: str | None) -> tuple[Permission, ...]:
    """Return all permissions that the operator needs, and no others.

    `lease` is the name of its Lease; None without leader election. `deployment` is its own
    Deployment, if Events are to be written for it.
    """
    basic: tuple[Permission, ...] = (
        Permission("batch", "jobs", ("get", "list", "watch", "create", "patch", "delete")),
        Permission("", "pods", ("list",)),
        Permission("", "pods/log", ("get",)),
        Permission("", "events", ("list", "create")),
        Permission("", "namespaces", ("get",)),
    )
    if deployment is not None:
        basic += (Permission("apps", "deployments", ("get",), deployment),)
    if lease is None:
        return basic
    return (
        *basic,
        Permission("coordination.k8s.io", "leases", ("create",)),
        Permission("coordination.k8s.io", "leases", ("get", "update"), lease),
    )


def check_access(
    api: Api, namespace: str, lease: str | None, deployment: str | None = None
) -> Check:
    """Ask the API server for each verb whether this account has it."""
    missing = list[str]()
    try:
        for permission in permissions(lease, deployment):
            resource, _, subresource = permission.resource.partition("/")
            for verb in permission.verbs:
                attributes = {
                    "namespace": namespace,
                    "verb": verb,
                    "group": permission.group,
                    "resource": resource,
                    "subresource": subresource,
                    "name": namespace if resource == "namespaces" else permission.name,
                }
                review = {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                }
                answer = api.request("POST", _REVIEWS, body=review)
                status = answer.get("status")
                if not (isinstance(status, dict) and status.get("allowed") is True):
                    missing.append(f"{verb} {permission.resource}")
    except (ApiError, LauncherUnavailable) as error:
        remedy = "see that this pod reaches the API server (a NetworkPolicy may be in the way)"
        if find_certificate_error(error):
            remedy = "correct the address or the CA certificate"
        return failed("cluster", str(error), remedy)
    if missing:
        return failed(
            "cluster",
            f"in namespace {namespace} this account may not: {', '.join(missing)}",
            "grant it what the Role in the chart grants (charts/enrollgate/templates/rbac.yaml)",
        )
    return ok(
        "cluster",
        f"{api.configuration.host}: every permission that is needed in namespace {namespace}",
    )
