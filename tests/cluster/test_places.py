"""Whose run is it: this namespace's, or that of another cluster or an earlier namespace?"""

import subprocess
import sys
from http import HTTPStatus

import pytest
from tests.cluster.chart import grant
from tests.cluster.control_plane import Cluster
from tests.cluster.control_plane.cluster import RESTRICTED
from tests.cluster.steps import running_job, wait_for_log
from tests.cluster.world import ClusterWorld

from enrollgate.launchers.kubernetes import ApiError


def enrollgate(world: ClusterWorld, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "enrollgate", *arguments],
        check=False,
        env=world.environment,
        capture_output=True,
        text=True,
        cwd=world.folder,
    )
    return done.stdout + done.stderr


def read_uid(cluster: Cluster, namespace: str) -> str:
    return str(cluster.api.request("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["uid"])


def create_again(cluster: Cluster, world: ClusterWorld) -> None:
    """Delete the namespace, and create another one of its name, with the chart's permissions."""
    # Jobs first: in a namespace that is being deleted, pods keep the finalizers of Jobs for
    # minutes.
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
    jobs = f"/apis/batch/v1/namespaces/{world.namespace}/jobs"
    cluster.api.request("DELETE", jobs, body=options)
    cluster.wait_for(
        lambda: not cluster.jobs(world.namespace) and not cluster.pods(world.namespace),
        what="the Jobs are gone",
    )
    path = f"/api/v1/namespaces/{world.namespace}"
    cluster.api.request("DELETE", path)
    cluster.wait_for(lambda: cluster.find(path) is None, what="the namespace is gone")
    metadata = {"name": world.namespace, "labels": RESTRICTED}
    cluster.create("/api/v1/namespaces", {"metadata": metadata})
    grant(world.namespace, cluster.kubeconfig, replicas=1)
    world.kubeconfig = cluster.kubeconfig_for(world.namespace, "school")


def test_run_of_another_namespace_of_the_same_name_waits_for_mark_lost(
    world: ClusterWorld, cluster: Cluster
) -> None:
    (first,) = world.add()
    process = world.start_operator()
    running_job(world, first)
    world.stop_operator(process)
    before = read_uid(cluster, world.namespace)
    create_again(cluster, world)
    here = read_uid(cluster, world.namespace)
    assert here != before
    (second,) = world.add()
    world.start_operator()
    wait_for_log(world, f"enrollgate mark-lost {before}")
    world.succeed(running_job(world, second))
    world.wait_for_status(second, "completed")
    assert [(run.state, run.outcome) for run in world.runs(first)] == [("launched", None)]
    assert f"school-{first}-1" not in world.jobs()
    assert "of another cluster, or before it was deleted" in enrollgate(world, "doctor")
    (third,) = world.add()
    live = running_job(world, third)
    listed = enrollgate(world, "mark-lost")
    assert f"{before}  kubernetes namespace {world.namespace}: 1 unfinished" in listed
    assert "is in this cluster" in enrollgate(world, "mark-lost", here)
    assert f"school-{first}-1: marked as lost" in enrollgate(world, "mark-lost", before)
    world.succeed(running_job(world, first, 2))
    world.wait_for_status(first, "completed")
    world.succeed(live)
    world.wait_for_status(third, "completed")
    assert [run.outcome for run in world.runs()] == ["lost", "succeeded", "succeeded", "succeeded"]


def test_without_the_permission_nothing_is_launched_until_it_is_granted(
    world: ClusterWorld, cluster: Cluster
) -> None:
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/school"
    rules = cluster.api.request("GET", role)["rules"]
    older = [rule for rule in rules if rule["resources"] != ["namespaces"]]
    assert len(older) == len(rules) - 1
    cluster.api.request("PATCH", role, body={"rules": older})
    (task,) = world.add()
    world.start_operator()
    wait_for_log(world, "cannot get resource")
    wait_for_log(world, "grant the operator what the Role in the chart grants")
    assert "may not: get namespaces" in enrollgate(world, "doctor")
    assert world.jobs() == {} and world.runs() == []
    cluster.api.request("PATCH", role, body={"rules": rules})
    world.succeed(running_job(world, task))
    world.wait_for_status(task, "completed")


def test_role_allows_its_own_namespace_and_no_other(world: ClusterWorld) -> None:
    api = Cluster.api_for(world.kubeconfig)
    assert api.request("GET", f"/api/v1/namespaces/{world.namespace}")["metadata"]["uid"]
    for path in ("/api/v1/namespaces/default", "/api/v1/namespaces"):
        with pytest.raises(ApiError) as refused:
            api.request("GET", path)
        assert refused.value.status == HTTPStatus.FORBIDDEN
