"""What the chart renders: valid, restricted, complete."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import (
    EVERYTHING,
    REQUIRED,
    complain,
    lint,
    merged,
    one,
    pods,
    render,
    settings_of,
    unrestricted,
)
from tests.cluster.chart import CHART

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes import permissions
from enrollgate.launchers.kubernetes.manifest import JobSettings, build_job
from enrollgate.settings.loading import SettingsError, load_settings, variables
from enrollgate.settings.sources import PREFIX

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
NOT_FOR_THE_CHART = frozenset(
    PREFIX + name
    for name in (
        "WORK_DIR",  # local mode's
        "RETRY_BACKOFF",  # local mode's: the Job controller has a back-off of its own
        "COOKIES_DIR",  # where a worker finds its Secret: the operator's to say
        "DRIVE_CREDENTIALS",  # likewise
    )
)
DIRECTORY = {
    "database": {"url": "mysql://u:p@db:3306/courses"},
    "destination": "directory:/courses",
    "destinationVolume": {
        "create": True,
        "size": "5Gi",
        "storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"],
    },
}
PARTS = {
    "database": {"host": "db", "user": "u", "password": "p", "name": "courses"},
    "destination": "directory:/courses",
    "destinationVolume": {"existingClaim": "courses"},
}
TRY_OUT = {
    "database": {"url": "mysql://u:p@db:3306/courses"},
    "destination": "drive:0AbCdEf",
    "drive": {"credentials": '{"type": "service_account"}'},
    "cookies": {
        "files": {
            "cookies.txt": "# Netscape HTTP Cookie File\n",
            f"cookies-{'0a' * 16}.txt": "# likewise\n",
        }
    },
    "networkPolicy": {"enabled": True},
}
NO_EXTRAS = REQUIRED | {
    "migration": {"enabled": False},
    "rbac": {"create": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "podDisruptionBudget": {"enabled": False},
}
CASES = {
    "required": REQUIRED,
    "everything": EVERYTHING,
    "directory": DIRECTORY,
    "parts": PARTS,
    "try-out": TRY_OUT,
    "least": NO_EXTRAS,
}
LOOKALIKES = {
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
"""Names that YAML would take for something else."""
CHOICES = [
    *(merged(REQUIRED, {"database": {"form": each}}) for each in ("url", "parts")),
    *({"image": {"pullPolicy": each}} for each in ("Always", "IfNotPresent", "Never")),
    {"downloader": "yt-dlp"},
    *({"logFormat": each} for each in ("json", "text")),
    *({"logLevel": each} for each in ("debug", "info", "warning", "error")),
    *(
        merged(DIRECTORY, {"destinationVolume": {"accessModes": [each]}})
        for each in ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")
    ),
]


@pytest.mark.parametrize("name", CASES)
def test_lint_is_strict_and_content(tmp_path: Path, name: str) -> None:
    assert not lint(tmp_path, CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_every_object_is_valid_and_every_pod_restricted(tmp_path: Path, name: str) -> None:
    objects = render(tmp_path, CASES[name])

    assert not complain(objects)
    assert [unrestricted(pod) for pod in pods(objects)] == [[] for _ in pods(objects)]


@pytest.mark.parametrize("release", ["123", "true"])
@pytest.mark.parametrize(
    "volume", [{"existingClaim": "123"}, {"create": True, "size": "5", "storageClassName": "123"}]
)
@pytest.mark.parametrize("name", ["", "true"])
def test_a_name_that_looks_like_something_else_stays_a_name(
    tmp_path: Path, release: str, volume: dict[str, Any], name: str
) -> None:
    objects = render(
        tmp_path, LOOKALIKES | {"destinationVolume": volume, "fullnameOverride": name}, release
    )

    assert not complain(objects)
    assert one(objects, "Deployment")["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    assert all(each["metadata"]["name"].startswith((name or release, "123")) for each in objects)


@pytest.mark.parametrize("values", CHOICES, ids=json.dumps)
def test_every_choice_renders_valid_objects(tmp_path: Path, values: dict[str, Any]) -> None:
    assert not complain(render(tmp_path, values if "database" in values else REQUIRED | values))


def test_every_choice_of_the_schema_is_tried() -> None:
    tried = {leaf for values in [*CHOICES, *CASES.values()] for leaf in _leaves(values)}

    assert set(_choices(SCHEMA)) <= tried | {""}


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    return (
        [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]
    )


def _choices(schema: object) -> list[object]:
    if isinstance(schema, dict):
        own = schema.get("enum", []) if isinstance(schema.get("enum"), list) else []
        return [*own, *(choice for each in schema.values() for choice in _choices(each))]
    return (
        [choice for each in schema for choice in _choices(each)] if isinstance(schema, list) else []
    )


def test_everything_is_really_everything() -> None:
    """A value that is added to the chart is added to everything.yaml, or it is one of the few that exclude others."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    exclusive = {("database", name) for name in ("url", "host", "user", "password", "name")} | {
        ("destinationVolume",),
        ("cookies", "files"),
        ("drive", "credentials"),
    }

    assert _keys(defaults) - _keys(EVERYTHING) <= exclusive | {
        ("destinationVolume", name) for name in defaults["destinationVolume"]
    }


def test_the_schema_knows_every_value_and_no_other() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def declared(schema: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        names: set[tuple[str, ...]] = set()
        for name, each in schema.get("properties", {}).items():
            names |= {(*path, name)} | declared(each, (*path, name))
        return names

    free_form = {
        "resources",
        "strategy",
        "jobTemplate",
    }  # Kubernetes' own objects: their parts are no values of ours

    def ours(paths: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        return {path for path in paths if free_form.isdisjoint(path[:-1])}

    assert ours(declared(SCHEMA)) - {("global",)} == ours(_keys(defaults))


def _keys(values: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    names: set[tuple[str, ...]] = set()
    for name, value in values.items():
        names.add((*path, name))
        if isinstance(value, dict):
            names |= _keys(value, (*path, name))
    return names


def test_every_setting_is_reachable_through_a_value_and_no_other_is_rendered(
    tmp_path: Path,
) -> None:
    rendered: set[str] = set()
    for values in CASES.values():
        for pod in pods(render(tmp_path, values)):
            for container in pod["containers"]:
                rendered |= {
                    each["name"] for each in container["env"] if each["name"].startswith(PREFIX)
                }

    assert rendered - set(variables()) <= NOT_FOR_THE_CHART
    assert set(variables()) - rendered <= NOT_FOR_THE_CHART


def test_values_reach_their_settings_as_they_were_written(tmp_path: Path) -> None:
    container = one(render(tmp_path, EVERYTHING), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ][0]
    settings = settings_of(container)

    assert settings["ENROLLGATE_ENROLLMENT_TIMEOUT"] == "1000000"
    assert settings["ENROLLGATE_CHECK_INTERVAL"] == "2.5"
    assert settings["ENROLLGATE_MAX_CONCURRENT_RUNS"] == "100000"
    assert settings["ENROLLGATE_MAX_LOST_RUNS"] == "0"
    assert settings["ENROLLGATE_DRIVE_CHUNK_SIZE"] == "16777216"
    assert json.loads(settings["ENROLLGATE_DOWNLOAD_COMMAND"]) == EVERYTHING["downloadCommand"]
    assert settings["ENROLLGATE_ALLOWED_HOSTS"] == "courses.example.com,*.cdn.example.com"
    assert settings["ENROLLGATE_KUBERNETES__LEADER_ELECTION"] == "true"
    assert settings["ENROLLGATE_KUBERNETES__IMAGE"] == container["image"]


def test_the_keys_of_a_secret_can_have_other_names(tmp_path: Path) -> None:
    for container in containers_with_a_database(tmp_path, EVERYTHING):
        assert references(container) == {
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


def containers_with_a_database(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of operator, migration and doctor."""
    found = [container for pod in pods(render(folder, values)) for container in pod["containers"]]
    assert {each["name"] for each in found} == {"operator", "migrate", "doctor"}
    return found


def references(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What it wants of Secrets, by variable."""
    return {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }


@pytest.mark.parametrize("name", ["required", "directory", "parts"])
def test_a_pod_without_the_keys_of_its_database_does_not_start(tmp_path: Path, name: str) -> None:
    """An optional key that is missing would leave a pod without an address, and the migration would find nothing to do."""
    wanted = {"HOST", "USER", "PASSWORD", "NAME"} if name == "parts" else {"URL"}
    for container in containers_with_a_database(tmp_path, CASES[name]):
        needed = {
            variable for variable, key in references(container).items() if not key.get("optional")
        }
        assert {
            variable.removeprefix("ENROLLGATE_DATABASE").lstrip("_") for variable in needed
        } == wanted


def test_the_migration_refuses_to_run_without_a_database_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own variables, should the Secret's be lost on the way."""
    (migrate,) = (
        each for each in containers_with_a_database(tmp_path, REQUIRED) if each["name"] == "migrate"
    )
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in settings_of(migrate).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(
        SettingsError,
        match=r"ENROLLGATE_DATABASE_URL.*database\.existingSecret.*`url`.*`parts`.*host",
    ):
        load_settings()


def test_no_password_is_outside_a_secret(tmp_path: Path) -> None:
    secrets = {
        "database": {"password": "unlikely-password"},
        "destination": "drive:x",
        "destinationVolume": {},
        "drive": {"credentials": '{"private_key": "unlikely-password"}'},
        "cookies": {"files": {"cookies.txt": "unlikely-password"}},
    }
    values = PARTS | secrets | {"database": PARTS["database"] | secrets["database"]}  # type: ignore[operator]  # both are maps
    objects = render(tmp_path, values)
    others = [each for each in objects if each["kind"] != "Secret"]

    assert json.dumps(objects).count("unlikely-password") == 4, (
        "the database's twice, for the migration"
    )
    assert "unlikely-password" not in json.dumps(others)


@pytest.mark.parametrize(
    ("values", "cookies", "drive"),
    [
        (TRY_OUT, "school-enrollgate-cookies", "school-enrollgate-drive"),
        (EVERYTHING, "cookies", "google"),
        (REQUIRED, None, None),
    ],
    ids=["try-out", "everything", "required"],
)
def test_workers_and_the_doctor_mount_the_users_secrets_or_those_of_a_try_out(
    tmp_path: Path, values: dict[str, Any], cookies: str | None, drive: str | None
) -> None:
    objects = render(tmp_path, values)
    settings = settings_of(one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0])
    mounted = {
        each["name"]: each["secret"]["secretName"]
        for each in doctor_of(objects)["spec"]["volumes"]
        if "secret" in each
    }
    made = {
        each["metadata"]["name"]: each["stringData"] for each in objects if each["kind"] == "Secret"
    }

    assert (
        settings.get("ENROLLGATE_KUBERNETES__COOKIES_SECRET") == mounted.get("cookies") == cookies
    )
    assert settings.get("ENROLLGATE_KUBERNETES__DRIVE_SECRET") == mounted.get("drive") == drive
    if values is TRY_OUT:
        assert made[str(cookies)] == TRY_OUT["cookies"]["files"]  # type: ignore[index]  # a map
        assert made[str(drive)] == {"credentials.json": '{"type": "service_account"}'}


def doctor_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return one(objects, "Pod", "-doctor")


def test_nothing_of_a_release_outlives_it(tmp_path: Path) -> None:
    """Helm leaves hooks behind, unless they say otherwise. What cannot be deleted at once, for its log, goes by itself."""
    hooks = [
        each
        for each in render(tmp_path, TRY_OUT)
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


def test_the_role_has_the_least_verbs(tmp_path: Path) -> None:
    rules = one(render(tmp_path, REQUIRED), "Role")["rules"]

    assert {(rule["resources"][0], *rule["verbs"]) for rule in rules} == {
        ("jobs", "get", "list", "watch", "create", "patch", "delete"),
        ("pods", "list"),
        ("events", "list", "create"),
    }


def test_several_replicas_get_a_lease_of_their_own_and_a_budget(tmp_path: Path) -> None:
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
        "it goes when the release goes"
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_role_grants_what_the_doctor_asks_for_and_no_more(
    tmp_path: Path, replicas: int
) -> None:
    rules = one(render(tmp_path, REQUIRED | {"replicas": replicas}), "Role")["rules"]
    lease = "school-enrollgate" if replicas > 1 else None

    granted = {
        (*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", [""]))
        for rule in rules
    }
    assert granted == {
        (each.group, each.resource, *each.verbs, each.name) for each in permissions(lease)
    }


def test_the_doctor_is_who_the_workers_are(tmp_path: Path) -> None:
    worker = EVERYTHING["worker"]
    doctor = doctor_of(render(tmp_path, EVERYTHING))
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
    assert {"name": "TZ", "value": "UTC"} in container["env"]
    assert {"name": "authorities", "mountPath": "/etc/ssl/certs"} in container["volumeMounts"]
    assert {"name": "authorities", "configMap": {"name": "authorities"}} in pod["volumes"]
    for named in (container["env"], pod["volumes"]):
        names = [each["name"] for each in named]
        assert len(names) == len(set(names)) and not {"scratch", "ENROLLGATE_SCRATCH_DIR"} & set(
            names
        )


def test_a_doctor_without_an_account_has_the_one_of_workers_without_one(tmp_path: Path) -> None:
    assert "serviceAccountName" not in doctor_of(render(tmp_path, REQUIRED))["spec"]


def test_the_migration_is_where_and_what_the_operator_is(tmp_path: Path) -> None:
    operator = EVERYTHING["operator"]
    job = one(render(tmp_path, EVERYTHING), "Job")
    template = job["spec"]["template"]

    for labels in (job["metadata"]["labels"], template["metadata"]["labels"]):
        assert operator["labels"].items() <= labels.items()
    assert operator["annotations"] == template["metadata"]["annotations"]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert template["spec"][name] == operator[name]


def test_no_label_or_annotation_of_a_user_takes_one_of_ours_away(tmp_path: Path) -> None:
    """A hook that is none would be installed with the release; a Deployment must select its own pods."""
    labels = {"app.kubernetes.io/component": "x", "app.kubernetes.io/name": "x", "team": "y"}
    more = {"labels": labels, "annotations": {"helm.sh/hook": "post-delete", "note": "z"}}

    def told(values: dict[str, Any]) -> list[dict[str, str]]:
        objects = render(tmp_path, merged(REQUIRED, values))
        deployment, job, doctor = (
            one(objects, "Deployment"),
            one(objects, "Job"),
            doctor_of(objects),
        )
        metadata = [
            each["metadata"]
            for each in (deployment["spec"]["template"], job["spec"]["template"], job, doctor)
        ]
        return [*(each["labels"] for each in metadata), doctor["metadata"]["annotations"]]

    for before, after in zip(told({}), told({"operator": more, "worker": more}), strict=True):
        assert before.items() <= after.items() and after.items() & {("team", "y"), ("note", "z")}


def test_null_is_nothing(tmp_path: Path) -> None:
    """As Helm's users write what they want of a default to be away."""
    nothing = {
        "labels": None,
        "annotations": None,
        "affinity": None,
        "tolerations": None,
        "nodeSelector": None,
    }
    worker = nothing | {
        "jobTemplate": {"spec": {"template": {"metadata": nothing, "spec": {"volumes": None}}}}
    }

    assert not complain(render(tmp_path, merged(REQUIRED, {"operator": nothing, "worker": worker})))


def test_only_the_operator_gets_a_token(tmp_path: Path) -> None:
    tokens = {
        each["containers"][0]["name"]: each["automountServiceAccountToken"]
        for each in pods(render(tmp_path, REQUIRED))
    }

    assert tokens == {"operator": True, "migrate": False, "doctor": False}


def test_the_migration_finds_its_secret_before_the_release_is_there(tmp_path: Path) -> None:
    objects = render(tmp_path, PARTS)
    job, secret = one(objects, "Job", "-migrate"), one(objects, "Secret", "-migrate")
    weights = [
        int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (secret, job)
    ]
    names = {
        each["name"]
        for each in references(job["spec"]["template"]["spec"]["containers"][0]).values()
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


def test_the_migration_reaches_its_database_before_the_release_is_there(tmp_path: Path) -> None:
    """Nor under the last release's policy, which may be for another port."""
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
    assert ports == {("UDP", 53), ("TCP", 53), ("TCP", EVERYTHING["networkPolicy"]["databasePort"])}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and not policy["spec"]["ingress"]


def test_a_changed_job_template_restarts_the_operator(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        deployment = one(render(tmp_path, values), "Deployment")
        return str(
            deployment["spec"]["template"]["metadata"]["annotations"]["checksum/job-template"]
        )

    assert checksum(REQUIRED) == checksum(REQUIRED)
    assert checksum(REQUIRED) != checksum(REQUIRED | {"worker": {"priorityClassName": "low"}})


def test_the_job_template_makes_valid_restricted_jobs(tmp_path: Path) -> None:
    """The chart's overlay laid upon a Job by the operator's own code."""
    template = yaml.safe_load(one(render(tmp_path, EVERYTHING), "ConfigMap")["data"]["job.yaml"])
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(
        order, JobSettings("courses", "night-school", "enrollgate:1", template=template)
    )
    worker, proxy = job["spec"]["template"]["spec"]["containers"]

    assert not complain([job])
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "courses"
    assert job["metadata"]["labels"]["team"] == "courses"
    assert worker["resources"]["limits"] == {"memory": "2Gi", "ephemeral-storage": str(11 * 2**30)}
    assert {"name": "TZ", "value": "UTC"} in worker["env"]
    assert proxy["image"] == "registry.example.com/proxy:1"
    assert job["spec"]["template"]["spec"]["runtimeClassName"] == "gvisor"


def test_without_an_overlay_every_job_is_restricted(tmp_path: Path) -> None:
    template = yaml.safe_load(one(render(tmp_path, REQUIRED), "ConfigMap")["data"]["job.yaml"])
    order = RunOrder("school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(order, JobSettings("courses", "school", "enrollgate:1", template=template))

    assert not complain([job])
    assert not unrestricted(job["spec"]["template"]["spec"])


def test_the_network_policies_select_the_pods_they_are_for(tmp_path: Path) -> None:
    """Whatever other labels the workers are given."""
    others = {"app.kubernetes.io/component": "batch"}
    overlay = {
        "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/name": "courses"}}}}
    }
    objects = render(
        tmp_path, merged(EVERYTHING, {"worker": {"labels": others, "jobTemplate": overlay}})
    )
    template = yaml.safe_load(one(objects, "ConfigMap")["data"]["job.yaml"])
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(
        order, JobSettings("courses", "night-school", "enrollgate:1", template=template)
    )
    made = {
        "worker": job["spec"]["template"]["metadata"]["labels"],
        "doctor": doctor_of(objects)["metadata"]["labels"],
        "operator": one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "migration": one(objects, "Job")["spec"]["template"]["metadata"]["labels"],
    }
    selectors = {
        each["metadata"]["name"]: each["spec"]["podSelector"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
    }

    assert made["worker"].items() >= {**others, "app.kubernetes.io/name": "courses"}.items()
    assert all(set(each) == {"matchLabels"} for each in selectors.values())
    assert {
        name: {
            pod for pod, labels in made.items() if selector["matchLabels"].items() <= labels.items()
        }
        for name, selector in selectors.items()
    } == {
        "night-operator": {"operator"},
        "night-migration": {"migration"},
        "night-workers": {"worker", "doctor"},
        "night-doctor": {"doctor"},
    }


def test_releases_in_one_namespace_do_not_clash(tmp_path: Path) -> None:
    releases = ("a", "b", "my.school", "a" * 50 + "-x", "a" * 50 + "-y")
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in render(tmp_path, PARTS, release)}
        for release in releases
    ]
    installations = {
        settings_of(
            one(render(tmp_path, PARTS, release), "Deployment")["spec"]["template"]["spec"][
                "containers"
            ][0]
        )["ENROLLGATE_INSTALLATION"]
        for release in releases
    }

    assert len(set.union(*names)) == sum(len(each) for each in names)
    assert len(installations) == len(releases)
    assert all(len(name) <= 63 for each in names for _, name in each)
