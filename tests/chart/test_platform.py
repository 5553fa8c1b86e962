"""What platform teams change: images, identities, labels, probes, DNS, extras, secrets."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import (
    EVERYTHING,
    REQUIRED,
    Json,
    container_settings,
    merged,
    one,
    pod_security_violations,
    pods,
    render,
    schema_errors,
)
from tests.cluster.chart import REPOSITORY
from tests.job_settings import job_settings

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.settings.loading import load_settings
from enrollgate.settings.sources import PREFIX

DIGEST = "sha256:" + "0a" * 32
WEB: Json = {"web": {"enabled": True, "databaseSecret": "reader", "tokenSecret": "token"}}
OPENSHIFT: Json = {
    "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
}
ORDER = RunOrder("school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")


def rendered_job(objects: list[Json]) -> Json:
    """Return the Job that the operator builds with the chart's job template."""
    template = yaml.safe_load(one(objects, "ConfigMap", "-job-template")["data"]["job.yaml"])
    return build_job(ORDER, job_settings("courses", "school", "enrollgate:1", template=template))


def all_pods(objects: list[Json]) -> list[Json]:
    """Return the pods of operator, migration, doctor, page and worker."""
    return [*pods(objects), rendered_job(objects)["spec"]["template"]["spec"]]


def containers(pod: Json) -> list[Json]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"tag": "1.2"}, "enrollgate:1.2"),
        ({"registry": "r.example.com:5000", "tag": "1.2"}, "r.example.com:5000/enrollgate:1.2"),
        ({"repository": "ghcr.io/a/b", "digest": DIGEST}, f"ghcr.io/a/b@{DIGEST}"),
        (
            {"registry": "r.example.com", "tag": "1", "digest": DIGEST},
            f"r.example.com/enrollgate@{DIGEST}",
        ),
    ],
)
def test_image_has_its_registry_and_digest(tmp_path: Path, image: Json, expected: str) -> None:
    objects = render(tmp_path, merged(REQUIRED, {"image": image} | WEB))
    images = {each["image"] for pod in pods(objects) for each in containers(pod)}
    operator = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]

    assert images == {expected}
    assert container_settings(operator)["ENROLLGATE_KUBERNETES__IMAGE"] == expected


def test_openshift_page_lets_pods_reach_its_dns_and_leaves_the_user_open(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "openshift.md").read_text(encoding="utf-8")
    values = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    objects = render(tmp_path, values)
    assert not any("runAsUser" in pod.get("securityContext", {}) for pod in pods(objects))
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    rules = [
        rule
        for policy in policies
        for rule in policy["spec"]["egress"]
        if "openshift-dns" in str(rule)
    ]
    # Operator, migration and workers. The DNS pods of OpenShift listen on 5353.
    assert len(rules) == 3
    for rule in rules:
        ports = {(each["protocol"], each["port"]) for each in rule["ports"]}
        assert {("UDP", 5353), ("TCP", 5353), ("UDP", 53), ("TCP", 53)} == ports


def test_user_can_be_left_to_openshift_in_every_pod(tmp_path: Path) -> None:
    """`null` removes our user. Its security context constraints then choose user and group."""
    objects = render(tmp_path, merged(REQUIRED, OPENSHIFT | WEB))
    found = all_pods(objects)

    assert len(found) == 5 and not schema_errors([*objects, rendered_job(objects)])
    for pod in found:
        assert set(pod["securityContext"]) == {
            "runAsNonRoot",
            "fsGroupChangePolicy",
            "seccompProfile",
        }
        assert pod_security_violations(pod) == ["may run as root"], "no user, and nothing else"


def test_security_contexts_reach_every_pod_and_container(tmp_path: Path) -> None:
    values = copy.deepcopy(EVERYTHING)
    found = all_pods(render(tmp_path, values))

    assert len(found) == 5
    for pod in found:
        expected = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["securityContext"] == expected | values["podSecurityContext"]
        ours = [each for each in containers(pod) if "registry.example.com/" not in each["image"]]
        for container in ours:
            assert container["securityContext"]["privileged"] is False


def test_job_template_repeats_no_default_of_the_security_contexts(tmp_path: Path) -> None:
    """What the operator itself gives to its Jobs, the chart's values must equal."""
    defaults = build_job(ORDER, job_settings("courses", "school", "enrollgate:1"))
    objects = render(tmp_path, REQUIRED)
    template = one(objects, "ConfigMap", "-job-template")["data"]["job.yaml"]
    plain = defaults["spec"]["template"]["spec"]
    operator = one(objects, "Deployment")["spec"]["template"]["spec"]

    assert "securityContext" not in template
    assert operator["securityContext"] == plain["securityContext"]
    assert operator["containers"][0]["securityContext"] == plain["containers"][0]["securityContext"]


def test_worker_s_own_security_context_is_the_doctor_s(tmp_path: Path) -> None:
    own = {"spec": {"template": {"spec": {"securityContext": {"runAsUser": 2000}}}}}
    objects = render(tmp_path, merged(REQUIRED, {"worker": {"jobTemplate": own}}))
    worker = rendered_job(objects)["spec"]["template"]["spec"]
    doctor = one(objects, "Pod", "-doctor")["spec"]
    operator = one(objects, "Deployment")["spec"]["template"]["spec"]

    assert worker["securityContext"] == doctor["securityContext"]
    assert doctor["securityContext"]["runAsUser"] == 2000
    assert operator["securityContext"]["runAsUser"] == 10001


def test_common_labels_and_annotations_are_on_everything(tmp_path: Path) -> None:
    common: Json = {
        "commonLabels": {"cost-center": "42"},
        "commonAnnotations": {"example.com/owner": "courses"},
    }
    evaluation = {
        "database": {"existingSecret": "", "url": "mysql://u:p@db/c"},
        "cookies": {"files": {"cookies.txt": "x"}, "existingSecret": ""},
        "drive": {"credentials": "{}", "existingSecret": ""},
    }
    enabled = {
        name: {"enabled": True}
        for name in ("networkPolicy", "serviceMonitor", "prometheusRule", "dashboard")
    }
    values = merged(REQUIRED, common | evaluation | enabled | WEB | {"replicas": 2})
    objects = render(tmp_path, values)
    found = [*objects, rendered_job(objects)]
    metadata = [each["metadata"] for each in found]
    metadata += [
        each["spec"]["template"]["metadata"] for each in found if "template" in each.get("spec", {})
    ]

    assert len({each["kind"] for each in found}) >= 14
    for each in metadata:
        assert each["labels"]["cost-center"] == "42", each
        assert each["annotations"]["example.com/owner"] == "courses", each


def test_name_override_changes_names_and_labels_together(tmp_path: Path) -> None:
    objects = render(
        tmp_path, REQUIRED | {"nameOverride": "lectures", "networkPolicy": {"enabled": True}}
    )
    deployment = one(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert all(each["metadata"]["name"].startswith("school-lectures") for each in objects)
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/name"] == "lectures"


def test_probes_take_timings_handlers_and_null(tmp_path: Path) -> None:
    probes: Json = {
        "startupProbe": {"failureThreshold": 90},
        "livenessProbe": None,
        "readinessProbe": {"httpGet": {"path": "/livez"}, "initialDelaySeconds": 3},
    }
    page: Json = {"livenessProbe": {"tcpSocket": {"port": "http"}}}
    objects = render(tmp_path, merged(REQUIRED, merged(WEB, {"operator": probes, "web": page})))
    operator = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    web = one(objects, "Deployment", "-web")["spec"]["template"]["spec"]["containers"][0]

    assert not schema_errors(objects)
    assert operator["startupProbe"] == {
        "httpGet": {"path": "/livez", "port": "http"},
        "periodSeconds": 2,
        "failureThreshold": 90,
    }
    assert "livenessProbe" not in operator
    assert operator["readinessProbe"] == {
        "httpGet": {"path": "/livez", "port": "http"},
        **{"periodSeconds": 5, "timeoutSeconds": 5, "initialDelaySeconds": 3},
    }
    assert web["livenessProbe"] == {
        "tcpSocket": {"port": "http"},
        **{"periodSeconds": 20, "timeoutSeconds": 5},
    }


def test_dns_and_hosts_are_those_of_every_pod(tmp_path: Path) -> None:
    objects = render(tmp_path, EVERYTHING)
    for pod in all_pods(objects):
        for name in ("dnsPolicy", "dnsConfig", "hostAliases", "imagePullSecrets"):
            assert pod[name] == EVERYTHING[name]
    for ending in ("", "-web"):
        assert one(objects, "Deployment", ending)["spec"]["revisionHistoryLimit"] == 3


def test_extras_of_the_operator_reach_migration_and_doctor(tmp_path: Path) -> None:
    objects = render(tmp_path, EVERYTHING)
    extra = EVERYTHING["operator"]
    operator = one(objects, "Deployment")["spec"]["template"]["spec"]
    migration = one(objects, "Job")["spec"]["template"]["spec"]
    doctor = one(objects, "Pod", "-doctor")["spec"]

    for pod in (operator, migration, doctor):
        assert extra["extraEnv"][0] in pod["containers"][0]["env"]
        assert extra["extraVolumes"][0] in pod["volumes"]
        assert extra["extraVolumeMounts"][0] in pod["containers"][0]["volumeMounts"]
        assert pod["initContainers"] == extra["extraInitContainers"]
    assert operator["containers"][1:] == extra["extraContainers"]
    assert len(migration["containers"]) == 1, "a sidecar would keep the Job from ending"


@pytest.mark.parametrize("mode", ["hook", "initContainer"])
def test_no_container_has_a_variable_twice(tmp_path: Path, mode: str) -> None:
    """Server-side apply refuses a list with two entries of one key."""
    twice: Json = {
        "migration": {"mode": mode},
        "operator": {
            "extraEnv": [
                {"name": "ENROLLGATE_LOG_LEVEL", "value": "error"},
                {"name": "TZ", "value": "a"},
            ]
        },
        "web": {"extraEnv": [{"name": "ENROLLGATE_LOG_LEVEL", "value": "error"}]},
    }
    objects = render(tmp_path, merged(EVERYTHING, twice))
    found = [each for pod in pods(objects) for each in containers(pod) if "env" in each]

    assert {each["name"] for each in found} == {"operator", "migrate", "doctor", "web"}
    for container in found:
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names))
        assert {"name": "ENROLLGATE_LOG_LEVEL", "value": "error"} in container["env"]
    doctor = next(each for each in found if each["name"] == "doctor")
    assert {"name": "TZ", "value": "UTC"} in doctor["env"], "the worker's variable wins"


def test_extra_objects_are_rendered_as_templates(tmp_path: Path) -> None:
    extra = one(render(tmp_path, EVERYTHING), "ConfigMap", "-extra")

    assert extra["metadata"]["name"] == "school-extra"
    assert extra["data"] == {"namespace": "courses"}


def test_pod_monitor_selects_the_operator_alone(tmp_path: Path) -> None:
    monitor = {
        "enabled": True,
        "scrapeTimeout": "7s",
        "relabelings": [{"action": "labeldrop", "regex": "pod"}],
    }
    values = merged(REQUIRED, WEB | {"podMonitor": monitor, "prometheusRule": {"enabled": True}})
    objects = render(tmp_path, values)
    spec = one(objects, "PodMonitor")["spec"]
    selected = [
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in objects
        if "template" in each.get("spec", {})
        and spec["selector"]["matchLabels"].items()
        <= each["spec"]["template"]["metadata"]["labels"].items()
    ]
    expression = one(objects, "PrometheusRule")["spec"]["groups"][0]["rules"][0]["expr"]

    assert selected == ["operator"]
    assert spec["podMetricsEndpoints"] == [
        {
            "port": "http",
            "path": "/metrics",
            "interval": "30s",
            "scrapeTimeout": "7s",
            "relabelings": monitor["relabelings"],
        }
    ]
    assert 'job="courses/school-enrollgate"' in expression
    assert not [each for each in objects if each["metadata"]["name"].endswith("-metrics")]


def test_service_monitor_has_its_timeout_and_relabelings(tmp_path: Path) -> None:
    (endpoint,) = one(render(tmp_path, EVERYTHING), "ServiceMonitor")["spec"]["endpoints"]

    for name in ("interval", "scrapeTimeout", "relabelings", "metricRelabelings"):
        assert endpoint[name] == EVERYTHING["serviceMonitor"][name]


def _files(folder: Path) -> Json:
    """Return values with all secrets as files, as a CSI driver or the Vault agent mounts them."""
    mounts: Json = {
        "extraVolumes": [{"name": "vault", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
        "extraVolumeMounts": [{"name": "vault", "mountPath": str(folder), "readOnly": True}],
    }
    worker = {
        "volumes": [{"name": "logins", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
        "containers": [
            {"name": "worker", "volumeMounts": [{"name": "logins", "mountPath": "/mnt/logins"}]}
        ],
    }
    return {
        "database": {"secretsDir": str(folder)},
        "destination": "drive:0AbCdEfGhIj",
        "drive": {"credentialsFile": "/mnt/logins/drive.json"},
        "cookies": {"dir": "/mnt/logins"},
        "migration": {"mode": "initContainer"},
        "operator": mounts,
        "worker": {"jobTemplate": {"spec": {"template": {"spec": worker}}}},
        "web": {"enabled": True, "secretsDir": str(folder)} | mounts,
    }


def test_secrets_from_files_need_no_secret_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each container reads the database's address, and workers get the paths of the others."""
    folder = tmp_path / "vault"
    folder.mkdir()
    (folder / "ENROLLGATE_DATABASE_URL").write_text("mysql://u:p@db:3306/courses\n")
    (folder / "ENROLLGATE_WEB__TOKEN").write_text("0123456789abcdef0123456789abcdef\n")
    objects = render(tmp_path, _files(folder))
    found = [each for pod in pods(objects) for each in containers(pod)]

    assert {each["name"] for each in found} == {"operator", "migrate", "doctor", "web"}
    assert "secretKeyRef" not in str(objects) and "secretName" not in str(objects)
    assert not [each for each in objects if each["kind"] == "Secret"]
    for container in found:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            monkeypatch.delenv(name)
        for name, value in container_settings(container).items():
            monkeypatch.setenv(name, value)
        assert {each["mountPath"] for each in container["volumeMounts"]} >= {str(folder)}
        settings = load_settings()
        assert settings.database_url is not None, container["name"]
        if container["name"] == "operator":
            environment: dict[str, Any] = settings.to_env()
            assert environment["ENROLLGATE_COOKIES_DIR"] == "/mnt/logins"
            assert environment["ENROLLGATE_DRIVE_CREDENTIALS"] == "/mnt/logins/drive.json"
    doctor = one(objects, "Pod", "-doctor")["spec"]
    assert {"name": "logins", "mountPath": "/mnt/logins"} in doctor["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("mode", "hooks", "containers"),
    [
        ("hook", ["Job", "NetworkPolicy", "Pod", "Secret"], []),
        ("initContainer", ["Pod"], ["migrate"]),
        ("external", ["Pod"], []),
    ],
)
def test_migration_runs_where_its_mode_says(
    tmp_path: Path, mode: str, hooks: list[str], containers: list[str]
) -> None:
    values: Json = {
        "database": {"url": "mysql://u:p@db:3306/courses"},
        "destination": "drive:0AbCdEfGhIj",
        "networkPolicy": {"enabled": True},
        "migration": {"mode": mode},
    }
    objects = render(tmp_path, values)
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    found = sorted(
        each["kind"]
        for each in objects
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    )
    secrets = {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"}

    assert found == hooks and not schema_errors(objects)
    assert [each["name"] for each in pod.get("initContainers", ())] == containers
    for each in pod.get("initContainers", ()):
        (reference,) = (
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in each["env"]
            if "valueFrom" in variable
        )
        assert reference in secrets, "the hook's copy of the Secret does not exist"
        assert {mount["name"] for mount in each["volumeMounts"]} <= {
            volume["name"] for volume in pod["volumes"]
        }
