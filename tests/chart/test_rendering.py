"""The objects that the chart renders: valid, restricted by Pod Security, and complete."""

import json
import os
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from scripts.docs.chart_readme import read_values
from tests.chart.rendering import (
    EVERYTHING,
    KUBERNETES,
    REQUIRED,
    Json,
    container_settings,
    lint,
    merged,
    one,
    pod_security_violations,
    pods,
    render,
    schema_errors,
)
from tests.cluster.chart import CHART
from tests.job_settings import job_settings

from enrollgate.domain.hosts import is_public, parse_address
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes import permissions
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.settings.loading import SettingsError, load_settings, variables
from enrollgate.settings.sources import PREFIX

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
SETTINGS_WITHOUT_A_VALUE = frozenset(
    PREFIX + name
    for name in (
        "WORK_DIR",  # local mode only
        "LOCAL_MEMORY_LIMIT",  # local mode only: `worker.resources` limits a Job's pod
        "RETRY_BACKOFF",  # local mode only: the Job controller has its own back-off
        "SECRETS_DIR",  # no setting, but where settings come from: `database.secretsDir`
    )
)
DIRECTORY: Json = {
    "database": {"url": "mysql://u:p@db:3306/courses"},
    "destination": "directory:/courses",
    "destinationVolume": {
        "create": True,
        "size": "5Gi",
        "storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"],
    },
}
PARTS: Json = {
    "database": {"host": "db", "user": "u", "password": "p", "name": "courses"},
    "destination": "directory:/courses",
    "destinationVolume": {"existingClaim": "courses"},
}
EVALUATION: Json = {
    "database": {"url": "mysql://u:p@db:3306/courses"},
    "destination": "drive:0AbCdEfGhIj",
    "drive": {"credentials": '{"type": "service_account"}'},
    "cookies": {
        "files": {
            "cookies.txt": "# Netscape HTTP Cookie File\n",
            f"cookies-{'0a' * 16}.txt": "# the same\n",
        }
    },
    "networkPolicy": {"enabled": True},
}
NO_EXTRAS = REQUIRED | {
    "migration": {"mode": "external"},
    "rbac": {"create": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "podDisruptionBudget": {"enabled": False},
}
# Secrets from volumes: a CSI driver's for operator and page, the Vault agent's for workers.
FILES: Json = {
    "database": {"secretsDir": "/mnt/database"},
    "destination": "drive:0AbCdEfGhIj",
    "drive": {"credentialsFile": "/vault/secrets/drive.json"},
    "cookies": {"dir": "/vault/secrets"},
    "migration": {"mode": "initContainer"},
    "operator": {
        "extraVolumes": [{"name": "database", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
        "extraVolumeMounts": [{"name": "database", "mountPath": "/mnt/database"}],
    },
    "worker": {"annotations": {"vault.hashicorp.com/agent-inject": "true"}},
    "web": {
        "enabled": True,
        "secretsDir": "/mnt/page",
        "extraVolumes": [{"name": "page", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
        "extraVolumeMounts": [{"name": "page", "mountPath": "/mnt/page"}],
    },
    "podMonitor": {"enabled": True},
}
CASES: dict[str, Json] = {
    "required": REQUIRED,
    "everything": EVERYTHING,
    "directory": DIRECTORY,
    "parts": PARTS,
    "evaluation": EVALUATION,
    "no extras": NO_EXTRAS,
    "files": FILES,
    "init container": REQUIRED | {"migration": {"mode": "initContainer"}},
}
# Names that YAML would read as numbers, booleans or null.
AMBIGUOUS_NAMES: Json = {
    "image": {"repository": "123", "tag": "456"},
    "imagePullSecrets": [{"name": "123"}],
    "installation": "null",
    "database": {"existingSecret": "123", "keys": {"url": "1.5"}, "tlsCASecret": "true"},
    "destination": "directory:/1.5, 123",
    "cookies": {"existingSecret": "null"},
    "serviceAccount": {"name": "123"},
    "operator": {"priorityClassName": "123"},
    "worker": {"serviceAccountName": "123", "priorityClassName": "true"},
    "replicas": 2,
    "networkPolicy": {"enabled": True},
    "serviceMonitor": {"enabled": True},
}
# A number needs no quotes in YAML.
QUALITIES = ("best", "audio", "1080", "720", "480", "360", 1080, 720, 480, 360)
INCOMPLETE_REASONS = (
    "DrmProtected",
    "UnsupportedCourse",
    "AccessDenied",
    "CourseNotFound",
    "SiteError",
    "IncompleteDownload",
)
CHOICES = [
    *(merged(REQUIRED, {"database": {"form": each}}) for each in ("url", "parts")),
    *({"image": {"pullPolicy": each}} for each in ("Always", "IfNotPresent", "Never")),
    {"downloader": "yt-dlp"},
    *({"worker": {"quality": each}} for each in QUALITIES),
    {"worker": {"incomplete": "fail"}},
    *(
        {"worker": {"incomplete": "accept", "incompleteReasons": [each]}}
        for each in INCOMPLETE_REASONS
    ),
    *({"dnsPolicy": each} for each in ("ClusterFirst", "ClusterFirstWithHostNet", "Default")),
    *({"logFormat": each} for each in ("json", "text")),
    *({"logLevel": each} for each in ("debug", "info", "warning", "error")),
    *(
        merged(DIRECTORY, {"destinationVolume": {"accessModes": [each]}})
        for each in ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")
    ),
]


@pytest.mark.parametrize("name", CASES)
def test_strict_lint_passes(tmp_path: Path, name: str) -> None:
    assert not lint(tmp_path, CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_objects_are_valid_and_pods_are_restricted(tmp_path: Path, name: str) -> None:
    objects = render(tmp_path, CASES[name])

    assert not schema_errors(objects)
    assert [pod_security_violations(pod) for pod in pods(objects)] == [[] for _ in pods(objects)]


@pytest.mark.parametrize("release", ["123", "true"])
@pytest.mark.parametrize(
    "volume", [{"existingClaim": "123"}, {"create": True, "size": "5", "storageClassName": "123"}]
)
@pytest.mark.parametrize("name", ["", "true"])
def test_names_that_look_like_other_types_stay_strings(
    tmp_path: Path, release: str, volume: Json, name: str
) -> None:
    objects = render(
        tmp_path, AMBIGUOUS_NAMES | {"destinationVolume": volume, "fullnameOverride": name}, release
    )

    assert not schema_errors(objects)
    assert one(objects, "Deployment")["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    assert all(each["metadata"]["name"].startswith((name or release, "123")) for each in objects)


@pytest.mark.parametrize("values", CHOICES, ids=json.dumps)
def test_every_enum_value_renders_valid_objects(tmp_path: Path, values: Json) -> None:
    assert not schema_errors(
        render(tmp_path, values if "database" in values else REQUIRED | values)
    )


def test_every_enum_value_of_the_schema_is_tested() -> None:
    tested = {leaf for values in [*CHOICES, *CASES.values()] for leaf in _leaves(values)}

    assert set(_enum_values(SCHEMA)) <= tested | {""}


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    return (
        [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]
    )


def _enum_values(schema: object) -> list[object]:
    if isinstance(schema, dict):
        own = schema.get("enum", []) if isinstance(schema.get("enum"), list) else []
        return [*own, *(choice for each in schema.values() for choice in _enum_values(each))]
    return (
        [choice for each in schema for choice in _enum_values(each)]
        if isinstance(schema, list)
        else []
    )


def test_everything_yaml_sets_every_value() -> None:
    """Add each new value of the chart to everything.yaml, unless it excludes another value."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    database = ("secretsDir", "url", "host", "user", "password", "name")
    exclusive = {("database", name) for name in database} | {
        ("destinationVolume",),
        ("podMonitor",),
        ("web", "secretsDir"),
        *(("cookies", name) for name in ("dir", "files")),
        *(("drive", name) for name in ("credentialsFile", "credentials")),
    }
    parts = {
        (name, part) for name in ("destinationVolume", "podMonitor") for part in defaults[name]
    }
    contexts = {each for each in _keys(defaults) if each[0].endswith("SecurityContext")}

    assert _keys(defaults) - _keys(EVERYTHING) <= exclusive | parts | contexts
    assert {"podSecurityContext", "containerSecurityContext"} <= set(EVERYTHING)


def test_schema_and_values_have_the_same_names() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def declared(schema: Json, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        names: set[tuple[str, ...]] = set()
        for name, each in schema.get("properties", {}).items():
            names |= {(*path, name)} | declared(each, (*path, name))
        return names

    # These values are Kubernetes' own objects: their parts are not values of the chart.
    free_form = {
        *("resources", "strategy", "jobTemplate", "podSecurityContext", "containerSecurityContext"),
        *("startupProbe", "livenessProbe", "readinessProbe"),
    }

    def chart_values(paths: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        return {path for path in paths if free_form.isdisjoint(path[:-1])}

    assert chart_values(declared(SCHEMA)) - {("global",)} == chart_values(_keys(defaults))


def test_schema_describes_each_value_as_values_yaml_does() -> None:
    """Editors show the schema; the README and values.yaml must not say something else."""
    compared = 0
    for name, _, meaning in read_values():
        schema = SCHEMA
        for part in name.split("."):
            schema = schema.get("properties", {}).get(part, {})
        if schema:  # Kubernetes' own objects have no schema of ours
            assert schema["description"] == meaning, name
            compared += 1
    assert compared > 150


def test_every_property_of_the_schema_has_a_description() -> None:
    def without(schema: object, path: str) -> list[str]:
        if isinstance(schema, list):
            return [name for each in schema for name in without(each, path)]
        if not isinstance(schema, dict):
            return []
        properties = schema.get("properties", {})
        own = [f"{path}.{name}" for name, each in properties.items() if "description" not in each]
        return own + [
            name for key, each in schema.items() for name in without(each, f"{path}.{key}")
        ]

    assert without(SCHEMA, "") == []


# Kubernetes' kinds of which the schema knows the fields, by the names of their definitions.
KUBERNETES_KINDS = {
    "affinity": "affinity-v1",
    "container": "container-v1",
    "containerChange": "container-v1",
    "containerSecurityContext": "securitycontext-v1",
    "deploymentStrategy": "deploymentstrategy-apps-v1",
    "dnsConfig": "poddnsconfig-v1",
    "hostAlias": "hostalias-v1",
    "jobSpec": "jobspec-batch-v1",
    "networkPolicyEgressRule": "networkpolicyegressrule-networking-v1",
    "networkPolicyPeer": "networkpolicypeer-networking-v1",
    "objectMeta": "objectmeta-meta-v1",
    "podSecurityContext": "podsecuritycontext-v1",
    "podSpec": "podspec-v1",
    "podTemplate": "podtemplatespec-v1",
    "probe": "probe-v1",
    "resourceClaim": "resourceclaim-v1",
    "toleration": "toleration-v1",
    "topologySpreadConstraint": "topologyspreadconstraint-v1",
    "variable": "envvar-v1",
    "volume": "volume-v1",
    "volumeMount": "volumemount-v1",
}


def test_schema_knows_every_field_of_kubernetes_and_no_other() -> None:
    """A new version of Kubernetes has new fields: add them when this fails."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    assert set(SCHEMA["$defs"]) - set(KUBERNETES_KINDS) == {"amounts", "relabeling"}
    for name, kind in KUBERNETES_KINDS.items():
        path = folder / f"v{KUBERNETES}.0-local" / f"{kind}.json"
        fields = json.loads(path.read_text(encoding="utf-8"))["properties"]
        assert SCHEMA["$defs"][name]["patternProperties"] == {
            f"^({'|'.join(sorted(fields))})$": True
        }, name


def test_no_map_of_the_schema_takes_unknown_names() -> None:
    def open_maps(schema: object, path: str) -> list[str]:
        if isinstance(schema, list):
            return [name for each in schema for name in open_maps(each, path)]
        if not isinstance(schema, dict):
            return []
        is_open = schema.get("type") == "object" and "additionalProperties" not in schema
        own = [path] if is_open else []
        return own + [
            name for key, each in schema.items() for name in open_maps(each, f"{path}/{key}")
        ]

    # Objects of any kind, and the parent chart's values, which only a chart of charts may have.
    assert open_maps(SCHEMA, "") == ["/properties/extraObjects/items", "/properties/global"]


def _keys(values: Json, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    names: set[tuple[str, ...]] = set()
    for name, value in values.items():
        names.add((*path, name))
        if isinstance(value, dict):
            names |= _keys(value, (*path, name))
    return names


def test_every_setting_has_a_value_and_no_other_is_rendered(
    tmp_path: Path,
) -> None:
    rendered: set[str] = set()
    for values in CASES.values():
        for pod in pods(render(tmp_path, values)):
            for container in pod["containers"]:
                rendered |= {
                    each["name"]
                    for each in container.get("env", ())
                    if each["name"].startswith(PREFIX)
                }

    assert rendered - set(variables()) <= SETTINGS_WITHOUT_A_VALUE
    assert set(variables()) - rendered <= SETTINGS_WITHOUT_A_VALUE


def test_values_reach_their_settings_unchanged(tmp_path: Path) -> None:
    container = one(render(tmp_path, EVERYTHING), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ][0]
    settings = container_settings(container)

    assert settings["ENROLLGATE_ENROLLMENT_TIMEOUT"] == "1000000"
    assert settings["ENROLLGATE_CHECK_INTERVAL"] == "2.5"
    assert settings["ENROLLGATE_MAX_CONCURRENT_RUNS"] == "100000"
    assert settings["ENROLLGATE_MAX_LOST_RUNS"] == "0"
    assert settings["ENROLLGATE_DRIVE_CHUNK_SIZE"] == "16777216"
    assert json.loads(settings["ENROLLGATE_DOWNLOAD_COMMAND"]) == EVERYTHING["downloadCommand"]
    assert settings["ENROLLGATE_ALLOWED_HOSTS"] == "courses.example.com,*.cdn.example.com"
    assert settings["ENROLLGATE_KUBERNETES__LEADER_ELECTION"] == "true"
    assert settings["ENROLLGATE_KUBERNETES__IMAGE"] == container["image"]


def test_keys_of_the_database_secret_can_be_renamed(tmp_path: Path) -> None:
    for container in containers_with_a_database(tmp_path, EVERYTHING):
        assert secret_references(container) == {
            "ENROLLGATE_DATABASE__HOST": {"name": "courses-database", "key": "db-host"},
            "ENROLLGATE_DATABASE__PORT": {
                "name": "courses-database",
                "key": "db-port",
                "optional": True,
            },
            "ENROLLGATE_DATABASE__USER": {"name": "courses-database", "key": "db-user"},
            "ENROLLGATE_DATABASE__PASSWORD": {"name": "courses-database", "key": "db-password"},
            "ENROLLGATE_DATABASE__NAME": {"name": "courses-database", "key": "db-name"},
        }


def containers_with_a_database(folder: Path, values: Json) -> list[Json]:
    """Return the containers of operator, migration and doctor. The page has its own Secret."""
    ours = {"operator", "migrate", "doctor"}
    containers = [
        each
        for pod in pods(render(folder, values))
        for each in (*pod.get("initContainers", ()), *pod["containers"])
    ]
    found = [each for each in containers if each["name"] in ours]
    assert {each["name"] for each in found} == ours
    return found


def secret_references(container: Json) -> dict[str, Json]:
    """Return the Secret keys that a container reads, by variable."""
    return {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }


@pytest.mark.parametrize("name", ["required", "directory", "parts"])
def test_pod_does_not_start_without_the_keys_of_its_database(tmp_path: Path, name: str) -> None:
    """The keys are required. Otherwise the migration would silently migrate a local file."""
    expected = {"HOST", "USER", "PASSWORD", "NAME"} if name == "parts" else {"URL"}
    for container in containers_with_a_database(tmp_path, CASES[name]):
        needed = {
            variable
            for variable, key in secret_references(container).items()
            if not key.get("optional")
        }
        assert {
            variable.removeprefix("ENROLLGATE_DATABASE").lstrip("_") for variable in needed
        } == expected


def test_migration_fails_without_a_database_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration's variables, without those from the Secret, are not a valid configuration."""
    (migrate,) = (
        each for each in containers_with_a_database(tmp_path, REQUIRED) if each["name"] == "migrate"
    )
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in container_settings(migrate).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(
        SettingsError,
        match=r"ENROLLGATE_DATABASE_URL.*database\.existingSecret.*`url`.*`parts`.*host",
    ):
        load_settings()


def test_passwords_are_rendered_in_secrets_only(tmp_path: Path) -> None:
    secrets: Json = {
        "database": {"password": "unlikely-password"},
        "destination": "drive:0AbCdEfGhIj",
        "destinationVolume": {},
        "drive": {"credentials": '{"private_key": "unlikely-password"}'},
        "cookies": {"files": {"cookies.txt": "unlikely-password"}},
    }
    values = PARTS | secrets | {"database": PARTS["database"] | secrets["database"]}
    objects = render(tmp_path, values)
    others = [each for each in objects if each["kind"] != "Secret"]

    assert json.dumps(objects).count("unlikely-password") == 4, (
        "the migration has a copy of the database's Secret"
    )
    assert "unlikely-password" not in json.dumps(others)


@pytest.mark.parametrize(
    ("values", "cookies", "drive"),
    [
        (EVALUATION, "school-enrollgate-cookies", "school-enrollgate-drive"),
        (EVERYTHING, "cookies", "google"),
        (REQUIRED, None, None),
    ],
    ids=["evaluation", "everything", "required"],
)
def test_workers_and_doctor_mount_the_same_secrets(
    tmp_path: Path, values: Json, cookies: str | None, drive: str | None
) -> None:
    objects = render(tmp_path, values)
    settings = container_settings(
        one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    )
    mounted = {
        each["name"]: each["secret"]["secretName"]
        for each in find_doctor(objects)["spec"]["volumes"]
        if "secret" in each
    }
    made = {
        each["metadata"]["name"]: each["stringData"] for each in objects if each["kind"] == "Secret"
    }

    assert (
        settings.get("ENROLLGATE_KUBERNETES__COOKIES_SECRET") == mounted.get("cookies") == cookies
    )
    assert settings.get("ENROLLGATE_KUBERNETES__DRIVE_SECRET") == mounted.get("drive") == drive
    if values is EVALUATION:
        assert made[str(cookies)] == EVALUATION["cookies"]["files"]
        assert made[str(drive)] == {"credentials.json": '{"type": "service_account"}'}


def find_doctor(objects: list[Json]) -> Json:
    return one(objects, "Pod", "-doctor")


def test_every_hook_is_deleted_with_the_release(tmp_path: Path) -> None:
    """Helm keeps hooks without a delete policy. A failed migration expires later."""
    hooks = [
        each
        for each in render(tmp_path, EVALUATION)
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    policies = {
        (each["kind"], each["metadata"]["name"]): set(
            each["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        )
        for each in hooks
    }
    always = {"before-hook-creation", "hook-succeeded", "hook-failed"}

    assert policies == {
        ("Secret", "school-enrollgate-migrate"): always,
        ("NetworkPolicy", "school-enrollgate-migration"): always,
        ("Job", "school-enrollgate-migrate"): always - {"hook-failed"},
        ("Pod", "school-enrollgate-doctor"): always,
    }
    assert one(hooks, "Job")["spec"]["ttlSecondsAfterFinished"] <= 3600


def test_role_has_the_minimal_verbs(tmp_path: Path) -> None:
    rules = one(render(tmp_path, REQUIRED), "Role")["rules"]

    assert {(rule["resources"][0], *rule["verbs"]) for rule in rules} == {
        ("jobs", "get", "list", "watch", "create", "patch", "delete"),
        ("pods", "list"),
        ("pods/log", "get"),
        ("events", "list", "create"),
        ("namespaces", "get"),
        ("deployments", "get"),
    }


def test_several_replicas_get_a_lease_and_a_disruption_budget(tmp_path: Path) -> None:
    objects = render(tmp_path, REQUIRED | {"replicas": 2})
    leases = [rule for rule in one(objects, "Role")["rules"] if rule["resources"] == ["leases"]]

    assert leases == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["school-enrollgate"],
            "verbs": ["get", "update"],
        },
    ]
    budget = one(objects, "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 1 and budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert one(objects, "Lease")["metadata"]["name"] == "school-enrollgate", (
        "helm uninstall deletes it"
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_role_grants_exactly_what_the_doctor_checks(tmp_path: Path, replicas: int) -> None:
    rules = one(render(tmp_path, REQUIRED | {"replicas": replicas}), "Role")["rules"]
    lease = "school-enrollgate" if replicas > 1 else None

    granted = {
        (*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", [""]))
        for rule in rules
    }
    assert granted == {
        (each.group, each.resource, *each.verbs, each.name)
        for each in permissions(lease, "school-enrollgate")
    }


def test_doctor_has_the_account_nodes_and_volumes_of_workers(tmp_path: Path) -> None:
    worker = EVERYTHING["worker"]
    doctor = find_doctor(render(tmp_path, EVERYTHING))
    pod, metadata = doctor["spec"], doctor["metadata"]
    (container,) = pod["containers"]

    assert (
        pod["serviceAccountName"] == worker["serviceAccountName"]
        and pod["automountServiceAccountToken"]
    )
    assert worker["labels"].items() <= metadata["labels"].items()
    assert worker["annotations"].items() <= metadata["annotations"].items()
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[name] == worker[name]
    assert (
        pod["runtimeClassName"] == "gvisor"
        and pod["imagePullSecrets"] == EVERYTHING["imagePullSecrets"]
    )
    assert container["args"] == ["doctor", "--as-worker"]
    assert {"name": "TZ", "value": "UTC"} in container["env"]
    assert {"name": "authorities", "mountPath": "/etc/ssl/certs"} in container["volumeMounts"]
    assert {"name": "authorities", "configMap": {"name": "authorities"}} in pod["volumes"]
    for named in (container["env"], pod["volumes"]):
        names = [each["name"] for each in named]
        assert len(names) == len(set(names)) and not {"scratch", "ENROLLGATE_SCRATCH_DIR"} & set(
            names
        )


def test_doctor_has_no_account_when_workers_have_none(tmp_path: Path) -> None:
    assert "serviceAccountName" not in find_doctor(render(tmp_path, REQUIRED))["spec"]


def test_migration_has_the_nodes_and_labels_of_the_operator(tmp_path: Path) -> None:
    operator = EVERYTHING["operator"]
    job = one(render(tmp_path, EVERYTHING), "Job")
    template = job["spec"]["template"]

    for labels in (job["metadata"]["labels"], template["metadata"]["labels"]):
        assert operator["labels"].items() <= labels.items()
    assert operator["annotations"].items() <= template["metadata"]["annotations"].items()
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert template["spec"][name] == operator[name]


def test_user_labels_and_annotations_never_replace_ours(tmp_path: Path) -> None:
    """Hooks must stay hooks, and a Deployment must select its own pods."""
    labels = {"app.kubernetes.io/component": "x", "app.kubernetes.io/name": "x", "team": "y"}
    more = {"labels": labels, "annotations": {"helm.sh/hook": "post-delete", "note": "z"}}

    def labels_and_annotations(values: Json) -> list[dict[str, str]]:
        objects = render(tmp_path, merged(REQUIRED, values))
        deployment, job, doctor = (
            one(objects, "Deployment"),
            one(objects, "Job"),
            find_doctor(objects),
        )
        metadata = [
            each["metadata"]
            for each in (deployment["spec"]["template"], job["spec"]["template"], job, doctor)
        ]
        return [*(each["labels"] for each in metadata), doctor["metadata"]["annotations"]]

    for before, after in zip(
        labels_and_annotations({}),
        labels_and_annotations({"operator": more, "worker": more}),
        strict=True,
    ):
        assert before.items() <= after.items() and after.items() & {("team", "y"), ("note", "z")}


def test_null_removes_a_default(tmp_path: Path) -> None:
    """Helm users set a value to null to remove its default."""
    removed = {
        "labels": None,
        "annotations": None,
        "affinity": None,
        "tolerations": None,
        "nodeSelector": None,
    }
    template = {
        "metadata": {"labels": None, "annotations": None},
        "spec": {"volumes": None, "affinity": None, "nodeSelector": None},
    }
    worker = removed | {"jobTemplate": {"spec": {"template": template}}}

    assert not schema_errors(
        render(tmp_path, merged(REQUIRED, {"operator": removed, "worker": worker}))
    )


def test_only_the_operator_has_a_token(tmp_path: Path) -> None:
    tokens = {
        each["containers"][0]["name"]: each["automountServiceAccountToken"]
        for each in pods(render(tmp_path, REQUIRED))
    }

    assert tokens == {"operator": True, "migrate": False, "doctor": False}


def test_migration_has_its_secret_before_the_release_exists(tmp_path: Path) -> None:
    objects = render(tmp_path, PARTS)
    job, secret = one(objects, "Job", "-migrate"), one(objects, "Secret", "-migrate")
    weights = [
        int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (secret, job)
    ]
    names = {
        each["name"]
        for each in secret_references(job["spec"]["template"]["spec"]["containers"][0]).values()
    }

    assert names == {secret["metadata"]["name"]}
    assert weights == sorted(weights)
    assert secret["stringData"] == {
        "host": "db",
        "port": "3306",
        "user": "u",
        "password": "p",
        "name": "courses",
    }


def test_migration_has_its_network_policy_before_the_release_exists(tmp_path: Path) -> None:
    """The policy of the previous release may allow another port."""
    objects = render(tmp_path, EVERYTHING)
    job, policy = one(objects, "Job", "-migrate"), one(objects, "NetworkPolicy", "-migration")
    hooks = [each["metadata"]["annotations"] for each in (policy, job)]
    ports = {
        (each["protocol"], each["port"])
        for rule in policy["spec"]["egress"]
        for each in rule["ports"]
    }

    assert hooks[0]["helm.sh/hook"] == hooks[1]["helm.sh/hook"]
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"])
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    dns = {(protocol, port) for protocol in ("TCP", "UDP") for port in (53, 5353)}
    assert ports == dns | {("TCP", EVERYTHING["networkPolicy"]["databasePort"])}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and not policy["spec"]["ingress"]


def test_changed_job_template_restarts_the_operator(tmp_path: Path) -> None:
    def checksum(values: Json) -> str:
        deployment = one(render(tmp_path, values), "Deployment")
        return str(
            deployment["spec"]["template"]["metadata"]["annotations"]["checksum/job-template"]
        )

    assert checksum(REQUIRED) == checksum(REQUIRED)
    assert checksum(REQUIRED) != checksum(REQUIRED | {"worker": {"priorityClassName": "low"}})


def test_job_template_makes_valid_jobs(tmp_path: Path) -> None:
    """The operator's own code merges the chart's job template over a Job."""
    template = yaml.safe_load(
        one(render(tmp_path, EVERYTHING), "ConfigMap", "-job-template")["data"]["job.yaml"]
    )
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(
        order, job_settings("courses", "night-school", "enrollgate:1", template=template)
    )
    worker, proxy = job["spec"]["template"]["spec"]["containers"]

    assert not schema_errors([job])
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "courses"
    assert job["metadata"]["labels"]["team"] == "courses"
    assert worker["resources"]["limits"] == {"memory": "2Gi", "ephemeral-storage": str(11 * 2**30)}
    assert {"name": "TZ", "value": "UTC"} in worker["env"]
    assert proxy["image"] == "registry.example.com/proxy:1"
    assert job["spec"]["template"]["spec"]["runtimeClassName"] == "gvisor"


def test_jobs_are_restricted_without_a_user_template(tmp_path: Path) -> None:
    template = yaml.safe_load(
        one(render(tmp_path, REQUIRED), "ConfigMap", "-job-template")["data"]["job.yaml"]
    )
    order = RunOrder("school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(order, job_settings("courses", "school", "enrollgate:1", template=template))

    assert not schema_errors([job])
    assert not pod_security_violations(job["spec"]["template"]["spec"])


def test_network_policies_select_the_right_pods(tmp_path: Path) -> None:
    """The labels that users add to workers do not change the selection."""
    user_labels = {"app.kubernetes.io/component": "batch"}
    overlay = {
        "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/name": "courses"}}}}
    }
    objects = render(
        tmp_path, merged(EVERYTHING, {"worker": {"labels": user_labels, "jobTemplate": overlay}})
    )
    template = yaml.safe_load(one(objects, "ConfigMap", "-job-template")["data"]["job.yaml"])
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(
        order, job_settings("courses", "night-school", "enrollgate:1", template=template)
    )
    pod_labels = {
        "worker": job["spec"]["template"]["metadata"]["labels"],
        "doctor": find_doctor(objects)["metadata"]["labels"],
        "operator": one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "migration": one(objects, "Job")["spec"]["template"]["metadata"]["labels"],
        "web": one(objects, "Deployment", "-web")["spec"]["template"]["metadata"]["labels"],
    }
    selectors = {
        each["metadata"]["name"]: each["spec"]["podSelector"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
    }

    assert (
        pod_labels["worker"].items() >= {**user_labels, "app.kubernetes.io/name": "courses"}.items()
    )
    assert all(set(each) == {"matchLabels"} for each in selectors.values())
    assert {
        name: {
            pod
            for pod, labels in pod_labels.items()
            if selector["matchLabels"].items() <= labels.items()
        }
        for name, selector in selectors.items()
    } == {
        "night-operator": {"operator"},
        "night-migration": {"migration"},
        "night-workers": {"worker", "doctor"},
        "night-doctor": {"doctor"},
        "night-web": {"web"},
    }


def allowed_by(policy: Json, address: str) -> bool:
    """Say whether the policy's blocks of addresses allow one, on some port of the web."""
    found = ip_address(address)
    blocks = [
        peer["ipBlock"]
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", ())
        if "ipBlock" in peer and {"protocol": "TCP", "port": 443} in rule["ports"]
    ]
    assert blocks
    return any(
        found in ip_network(block["cidr"])
        and not any(found in ip_network(each) for each in block.get("except", ()))
        for block in blocks
    )


def test_network_policy_blocks_the_addresses_that_the_worker_refuses(tmp_path: Path) -> None:
    policy = one(render(tmp_path, EVERYTHING), "NetworkPolicy", "-workers")
    blocks = [
        peer["ipBlock"]
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", ())
        if "ipBlock" in peer
    ]
    networks = [ip_network(each) for block in blocks for each in block.get("except", ())]
    networks += [ip_network(f"{first}.0.0.0/8") for first in range(256)]
    candidates = ["8.8.8.8", "1.1.1.1", "169.254.169.254", "168.63.129.16", "100.100.100.200"]
    for network in networks:
        for number in (
            int(network[0]) - 1,
            int(network[0]),
            int(network[-1]),
            int(network[-1]) + 1,
        ):
            if 0 <= number < 2**network.max_prefixlen:
                kind = IPv4Address if network.version == 4 else IPv6Address
                candidates.append(str(kind(number)))
    for address in candidates:
        found = parse_address(address)
        assert found is not None
        if found.version == 4:
            assert allowed_by(policy, address) == is_public(found), address
        else:
            assert is_public(found) or not allowed_by(policy, address), address
    for address in ("2606:4700:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"):
        assert allowed_by(policy, address), address
    for address in (
        *("::1", "::ffff:10.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::", "2001:db8::1"),
    ):
        assert not allowed_by(policy, address), address


def test_network_policy_allows_dns_to_the_cluster_s_resolver_only(tmp_path: Path) -> None:
    policies = [
        each
        for each in render(tmp_path, REQUIRED | {"networkPolicy": {"enabled": True}})
        if each["kind"] == "NetworkPolicy"
    ]
    resolver = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    peers = {
        policy["metadata"]["name"]: [
            rule.get("to")
            for rule in policy["spec"]["egress"]
            if any(port["port"] == 53 for port in rule["ports"])
        ]
        for policy in policies
    }
    assert peers == {
        "school-enrollgate-operator": [[resolver]],
        "school-enrollgate-migration": [[resolver]],
        "school-enrollgate-workers": [[resolver]],
        "school-enrollgate-doctor": [],
    }
    changed = one(render(tmp_path, EVERYTHING), "NetworkPolicy", "-workers")
    assert changed["spec"]["egress"][0]["to"] == EVERYTHING["networkPolicy"]["dns"]


def test_releases_in_one_namespace_have_distinct_names(tmp_path: Path) -> None:
    releases = ("a", "b", "my.school", "a" * 50 + "-x", "a" * 50 + "-y")
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in render(tmp_path, PARTS, release)}
        for release in releases
    ]
    installations = {
        container_settings(
            one(render(tmp_path, PARTS, release), "Deployment")["spec"]["template"]["spec"][
                "containers"
            ][0]
        )["ENROLLGATE_INSTALLATION"]
        for release in releases
    }

    assert len(set.union(*names)) == sum(len(each) for each in names)
    assert len(installations) == len(releases)
    assert all(len(name) <= 63 for each in names for _, name in each)


def test_the_page_has_a_reader_of_its_own_and_no_token_of_the_cluster(tmp_path: Path) -> None:
    objects = render(tmp_path, EVERYTHING)
    pod = one(objects, "Deployment", "-web")["spec"]["template"]["spec"]
    container, _ = pod["containers"]
    secrets = {
        each["name"]: each["valueFrom"]["secretKeyRef"]["name"]
        for each in container["env"]
        if "valueFrom" in each
    }
    policy = one(objects, "NetworkPolicy", "-web")["spec"]
    settings = container_settings(container)

    assert container["args"] == ["web"] and pod["automountServiceAccountToken"] is False
    assert secrets.pop("ENROLLGATE_WEB__TOKEN") == "page-token"
    assert set(secrets.values()) == {"courses-reader"}
    assert settings["ENROLLGATE_WEB__ADDRESS"] == "*"
    assert policy["ingress"][0]["from"] == EVERYTHING["web"]["allowedFrom"]
    assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [53, 3307]
    assert not [each for each in render(tmp_path, REQUIRED) if "web" in each["metadata"]["name"]]


def test_rules_select_the_operator_of_the_release(tmp_path: Path) -> None:
    enabled = {
        name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")
    }
    objects = render(tmp_path, REQUIRED | enabled)
    labels = one(objects, "ConfigMap", "-dashboard")["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"
    service = one(objects, "Service", "-metrics")["metadata"]["name"]
    rules = one(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]

    assert len(rules) >= 10
    for rule in rules:
        assert f'{{namespace="courses", job="{service}"' in rule["expr"], rule["alert"]
        assert 'job="enrollgate"' not in rule["expr"]
        assert rule["annotations"]["runbook_url"].startswith("https://github.com/enrollgate/")


def test_values_of_the_rules_and_the_dashboard_reach_their_objects(tmp_path: Path) -> None:
    objects = render(tmp_path, EVERYTHING)
    rule = one(objects, "PrometheusRule")
    rules = {each["alert"]: each for each in rule["spec"]["groups"][0]["rules"]}
    config = one(objects, "ConfigMap", "-dashboard")
    shipped = CHART / "monitoring" / "dashboard.json"

    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert '{job="night", cluster="a"' in rules["EnrollgateDown"]["expr"]
    assert rules["EnrollgateOldestEnrolled"]["expr"].endswith("> 1000000")
    assert rules["EnrollgateRunFailed"]["annotations"]["runbook_url"] == (
        "https://docs.example.com/enrollgate/reasons.md#{{ $labels.reason | toLower }}"
    )
    assert config["metadata"]["namespace"] == "grafana"
    assert config["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert config["metadata"]["annotations"]["grafana_folder"] == "Courses"
    assert config["data"]["enrollgate.json"] == shipped.read_text(encoding="utf-8")
