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
from enrollgate.settings import PREFIX, SettingsError, load_settings, variables

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
    "destinationVolume": {"create": True, "size": "5Gi", "storageClassName": "fast", "accessModes": ["ReadWriteOnce"]},
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
    "cookies": {"files": {"cookies.txt": "# Netscape HTTP Cookie File\n", f"cookies-{'0a' * 16}.txt": "# likewise\n"}},
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


@pytest.mark.parametrize("values", CHOICES, ids=json.dumps)
def test_every_choice_renders_valid_objects(tmp_path: Path, values: dict[str, Any]) -> None:
    assert not complain(render(tmp_path, values if "database" in values else REQUIRED | values))


def test_every_choice_of_the_schema_is_tried() -> None:
    tried = {leaf for values in [*CHOICES, *CASES.values()] for leaf in _leaves(values)}

    assert set(_choices(SCHEMA)) <= tried | {""}


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def _choices(schema: object) -> list[object]:
    if isinstance(schema, dict):
        own = schema.get("enum", []) if isinstance(schema.get("enum"), list) else []
        return [*own, *(choice for each in schema.values() for choice in _choices(each))]
    return [choice for each in schema for choice in _choices(each)] if isinstance(schema, list) else []


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

    free_form = {"resources", "strategy", "jobTemplate"}  # Kubernetes' own objects: their parts are no values of ours

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


def test_every_setting_is_reachable_through_a_value_and_no_other_is_rendered(tmp_path: Path) -> None:
    rendered: set[str] = set()
    for values in CASES.values():
        for pod in pods(render(tmp_path, values)):
            for container in pod["containers"]:
                rendered |= {each["name"] for each in container["env"] if each["name"].startswith(PREFIX)}

    assert rendered - set(variables()) <= NOT_FOR_THE_CHART
    assert set(variables()) - rendered <= NOT_FOR_THE_CHART


def test_values_reach_their_settings_as_they_were_written(tmp_path: Path) -> None:
    container = one(render(tmp_path, EVERYTHING), "Deployment")["spec"]["template"]["spec"]["containers"][0]
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
            "ENROLLGATE_DATABASE__PORT": {"name": "courses-database", "key": "db-port", "optional": True},
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
        needed = {variable for variable, key in references(container).items() if not key.get("optional")}
        assert {variable.removeprefix("ENROLLGATE_DATABASE").lstrip("_") for variable in needed} == wanted


def test_the_migration_refuses_to_run_without_a_database_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own variables, should the Secret's be lost on the way."""
    (migrate,) = (each for each in containers_with_a_database(tmp_path, REQUIRED) if each["name"] == "migrate")
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in settings_of(migrate).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=r"ENROLLGATE_DATABASE_URL.*database\.existingSecret.*`url`.*`parts`.*host"):
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

    assert json.dumps(objects).count("unlikely-password") == 4, "the database's twice, for the migration"
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
        each["name"]: each["secret"]["secretName"] for each in doctor_of(objects)["spec"]["volumes"] if "secret" in each
    }
    made = {each["metadata"]["name"]: each["stringData"] for each in objects if each["kind"] == "Secret"}

    assert settings.get("ENROLLGATE_KUBERNETES__COOKIES_SECRET") == mounted.get("cookies") == cookies
    assert settings.get("ENROLLGATE_KUBERNETES__DRIVE_SECRET") == mounted.get("drive") == drive
    if values is TRY_OUT:
        assert made[str(cookies)] == TRY_OUT["cookies"]["files"]  # type: ignore[index]  # a map
        assert made[str(drive)] == {"credentials.json": '{"type": "service_account"}'}


def doctor_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return one(objects, "Pod", "-doctor")


def test_nothing_of_a_release_outlives_it(tmp_path: Path) -> None:
    """Helm leaves hooks behind, unless they say otherwise. What cannot be deleted at once, for its log, goes by itself."""
    hooks = [each for each in render(tmp_path, TRY_OUT) if "helm.sh/hook" in each["metadata"].get("annotations", {})]
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
    assert one(objects, "PodDisruptionBudget")
    assert one(objects, "Lease")["metadata"]["name"] == "school-enrollgate", "it goes when the release goes"


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_role_grants_what_the_doctor_asks_for_and_no_more(tmp_path: Path, replicas: int) -> None:
    rules = one(render(tmp_path, REQUIRED | {"replicas": replicas}), "Role")["rules"]
    lease = "school-enrollgate" if replicas > 1 else None

    granted = {
        (*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", [""])) for rule in rules
    }
    assert granted == {(each.group, each.resource, *each.verbs, each.name) for each in permissions(lease)}


def test_the_doctor_is_who_the_workers_are(tmp_path: Path) -> None:
    values = merged(REQUIRED, {"worker": {"serviceAccountName": "drive", "automountServiceAccountToken": True}})
    doctor = next(each for each in pods(render(tmp_path, values)) if each["containers"][0]["name"] == "doctor")

    assert doctor["serviceAccountName"] == "drive" and doctor["automountServiceAccountToken"]
    assert doctor_of(render(tmp_path, REQUIRED))["spec"]["serviceAccountName"] == "default"


def test_only_the_operator_gets_a_token(tmp_path: Path) -> None:
    tokens = {
        each["containers"][0]["name"]: each["automountServiceAccountToken"] for each in pods(render(tmp_path, REQUIRED))
    }

    assert tokens == {"operator": True, "migrate": False, "doctor": False}


def test_the_migration_finds_its_secret_before_the_release_is_there(tmp_path: Path) -> None:
    objects = render(tmp_path, PARTS)
    job, secret = one(objects, "Job", "-migrate"), one(objects, "Secret", "-migrate")
    weights = [int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (secret, job)]
    names = {each["name"] for each in references(job["spec"]["template"]["spec"]["containers"][0]).values()}

    assert names == {secret["metadata"]["name"]}
    assert weights == sorted(weights)
    assert secret["stringData"] == {"host": "db", "port": "3306", "user": "u", "password": "p", "name": "courses"}


def test_a_changed_job_template_restarts_the_operator(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        deployment = one(render(tmp_path, values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/job-template"])

    assert checksum(REQUIRED) == checksum(REQUIRED)
    assert checksum(REQUIRED) != checksum(REQUIRED | {"worker": {"priorityClassName": "low"}})


def test_the_job_template_makes_valid_restricted_jobs(tmp_path: Path) -> None:
    """The chart's overlay laid upon a Job by the operator's own code."""
    template = yaml.safe_load(one(render(tmp_path, EVERYTHING), "ConfigMap")["data"]["job.yaml"])
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    job = build_job(order, JobSettings("courses", "night-school", "enrollgate:1", template=template))
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
    objects = render(tmp_path, EVERYTHING)
    operator = one(objects, "NetworkPolicy", "-operator")["spec"]["podSelector"]
    workers = one(objects, "NetworkPolicy", "-workers")["spec"]["podSelector"]
    database = one(objects, "NetworkPolicy", "-doctor")["spec"]["podSelector"]
    migration = one(objects, "NetworkPolicy", "-migration")["spec"]["podSelector"]
    order = RunOrder("night-school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt")
    overlay = {"spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/component": "mine"}}}}}
    job = build_job(order, JobSettings("courses", "night-school", "enrollgate:1", template=overlay))

    labels = {
        "operator": one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "migration": one(objects, "Job", "-migrate")["spec"]["template"]["metadata"]["labels"],
        "doctor": doctor_of(objects)["metadata"]["labels"],
        "worker": job["spec"]["template"]["metadata"]["labels"],
    }
    selected = [
        {name for name, own in labels.items() if each["matchLabels"].items() <= own.items()}
        for each in (operator, migration, workers, database)
    ]
    assert selected == [{"operator"}, {"migration"}, {"worker", "doctor"}, {"doctor"}], (
        "a worker whatever its labels say"
    )


def test_the_migration_may_reach_the_database_before_the_release_is_there(tmp_path: Path) -> None:
    """In a namespace that denies what is not allowed, and where the last release allowed another port."""
    objects = render(tmp_path, EVERYTHING)
    policy, job = one(objects, "NetworkPolicy", "-migration"), one(objects, "Job", "-migrate")
    hooks = [each["metadata"]["annotations"] for each in (policy, job)]
    allowed = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert {each["helm.sh/hook"] for each in hooks} == {"pre-install,pre-upgrade"}
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"])
    assert allowed == {53, 3307}


def test_the_migration_and_the_doctor_are_let_in_where_operator_and_workers_are(tmp_path: Path) -> None:
    """What a namespace asks of its pods: labels, a mesh's annotations, nodes, an account, a proxy."""
    objects = render(tmp_path, EVERYTHING)
    migration, doctor = one(objects, "Job", "-migrate")["spec"]["template"], doctor_of(objects)
    operator, worker = EVERYTHING["operator"], EVERYTHING["worker"]

    for pod, values in ((migration, operator), (doctor, worker)):
        assert values["labels"].items() <= pod["metadata"]["labels"].items()
        assert values["annotations"].items() <= pod["metadata"]["annotations"].items()
        for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
            assert pod["spec"][name] == values[name]
    assert one(objects, "Job", "-migrate")["metadata"]["labels"]["team"] == "courses"
    assert {"name": "TZ", "value": "UTC"} in doctor["spec"]["containers"][0]["env"]
    assert doctor["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_labels_of_the_users_never_replace_ours(tmp_path: Path) -> None:
    mine = {"app.kubernetes.io/component": "mine", "app.kubernetes.io/instance": "mine"}
    values = merged(
        REQUIRED, {"operator": {"labels": mine}, "worker": {"labels": mine, "annotations": {"helm.sh/hook": "x"}}}
    )
    objects = render(tmp_path, values)
    deployment = one(objects, "Deployment")["spec"]
    doctor = doctor_of(objects)["metadata"]

    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert (
        doctor["labels"]["app.kubernetes.io/component"] == "doctor" and doctor["annotations"]["helm.sh/hook"] == "test"
    )


@pytest.mark.parametrize("name", ["true", "123", "1e3", "null"])
def test_a_name_that_reads_as_something_else_is_a_name(tmp_path: Path, name: str) -> None:
    database = {"database": {"existingSecret": name, "tlsCASecret": name}, "installation": "school"}
    classes = {
        "operator": {"priorityClassName": name},
        "worker": {"priorityClassName": name, "serviceAccountName": name},
    }
    others = {"cookies": {"existingSecret": name}, "serviceAccount": {"name": name}, "networkPolicy": {"enabled": True}}
    volume = {"destinationVolume": {"create": True, "storageClassName": name}, "destination": "directory:/courses"}

    assert not complain(render(tmp_path, database | classes | others | volume, release=name))


def test_a_drain_is_never_held_up_by_operators_that_wait_for_the_database(tmp_path: Path) -> None:
    budget = one(render(tmp_path, REQUIRED | {"replicas": 2}), "PodDisruptionBudget")

    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_releases_in_one_namespace_do_not_clash(tmp_path: Path) -> None:
    releases = ("a", "b", "my.school", "a" * 50 + "-x", "a" * 50 + "-y")
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in render(tmp_path, PARTS, release)} for release in releases
    ]
    installations = {
        settings_of(one(render(tmp_path, PARTS, release), "Deployment")["spec"]["template"]["spec"]["containers"][0])[
            "ENROLLGATE_INSTALLATION"
        ]
        for release in releases
    }

    assert len(set.union(*names)) == sum(len(each) for each in names)
    assert len(installations) == len(releases)
    assert all(len(name) <= 63 for each in names for _, name in each)
