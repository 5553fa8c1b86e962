"""An order becomes a Job, and the deployment's template is merged over it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chart.rendering import container_settings
from tests.cluster.pod_runner.expansion import expand
from tests.job_settings import job_settings

from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import PERMANENT_EXIT_CODES
from enrollgate.launchers.kubernetes import read_template
from enrollgate.launchers.kubernetes.manifest import JobTemplate, build_job, merge
from enrollgate.settings.worker import WorkerSettings

ORDER = RunOrder("school-7-2", 7, 2, "https://courses.example.com/7", "cookies-0a.txt", "6f1e")
SETTINGS = job_settings()


def with_template(template: dict[str, Any]) -> Any:
    return build_job(ORDER, job_settings(template=template))


def container(job: Any) -> Any:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


def test_a_job_runs_one_pod_at_a_time_until_one_succeeds() -> None:
    spec = build_job(ORDER, SETTINGS)["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 2)
    assert (
        spec["podReplacementPolicy"] == "Failed"
        and spec["template"]["spec"]["restartPolicy"] == "Never"
    )
    rules = spec["podFailurePolicy"]["rules"]
    permanent = next(rule["onExitCodes"] for rule in rules if "onExitCodes" in rule)
    assert permanent["operator"] == "In" and set(permanent["values"]) == set(PERMANENT_EXIT_CODES)
    assert any(rule["action"] == "Ignore" and "onPodConditions" in rule for rule in rules), (
        "drains do not count"
    )


def test_the_worker_gets_no_token_and_no_email_address() -> None:
    job = build_job(ORDER, SETTINGS)
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert "@" not in str(job)
    names = [each["name"] for each in container(job)["env"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "url",
    [
        "https://courses.example.com/a$$b",
        "https://x.example/$(ENROLLGATE_TASK_ID)?t=$$(HOME)",
        "https://x.example/$",
    ],
)
def test_a_course_url_with_dollar_signs_reaches_the_worker_unchanged(url: str) -> None:
    settings = replace(SETTINGS, worker=WorkerSettings(drive_subject=url))
    found = container_settings(container(build_job(replace(ORDER, course_url=url), settings)))
    assert found["ENROLLGATE_COURSE_URL"] == found["ENROLLGATE_DRIVE_SUBJECT"] == url
    assert found["ENROLLGATE_TASK_ID"] == "7"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B) $A $", "$(B) $A $"),
        ("$$$$", "$$"),
        ("$(A", "$(A"),
    ],
)
def test_variables_expand_as_the_kubelet_expands_them(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_a_template_variable_replaces_the_one_of_its_name_only() -> None:
    changed = with_template(
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [{"name": "worker", "env": [{"name": "HOME", "value": "/h"}]}]
                    }
                }
            }
        }
    )
    plain = with_template({})
    homes = [each["value"] for each in container(changed)["env"] if each["name"] == "HOME"]
    assert homes == ["/h"] and len(container(changed)["env"]) == len(container(plain)["env"])
    assert changed["spec"]["backoffLimit"] == plain["spec"]["backoffLimit"]


def test_a_variable_with_a_source_replaces_the_one_with_a_value() -> None:
    source = {"name": "HOME", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}
    over = {"spec": {"template": {"spec": {"containers": [{"name": "worker", "env": [source]}]}}}}
    assert source in container(with_template(over))["env"], (
        "a variable with both is refused by the API server"
    )


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {
            "enrollgate.io/installation": "other",
            "enrollgate.io/task-id": None,
            "enrollgate.io/run": "9",
            "a": "b",
        },
    ],
)
def test_a_template_cannot_change_name_namespace_or_own_labels(
    labels: dict[str, Any] | None,
) -> None:
    metadata = {"name": "mine", "namespace": "elsewhere", "labels": labels}
    job = with_template(
        {"metadata": metadata, "spec": {"template": {"metadata": {"labels": labels}}}}
    )
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("school-7-2", "courses")
    for found in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        known = {name: value for name, value in found.items() if name.startswith("enrollgate.io/")}
        assert known == {
            "enrollgate.io/installation": "school",
            "enrollgate.io/task-id": "7",
            "enrollgate.io/run": "2",
            "enrollgate.io/claim": "6f1e",
        }
        assert labels is None or found["a"] == "b", "its other labels stay"


def test_null_removes() -> None:
    job = with_template({"spec": {"ttlSecondsAfterFinished": None}})
    assert "ttlSecondsAfterFinished" not in job["spec"]


def test_another_container_is_added_beside_the_worker() -> None:
    sidecar = {"name": "proxy", "image": "proxy:1"}
    job = with_template({"spec": {"template": {"spec": {"containers": [sidecar]}}}})
    assert [each["name"] for each in job["spec"]["template"]["spec"]["containers"]] == [
        "worker",
        "proxy",
    ]


json_values = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_merging_a_value_with_itself_changes_nothing(value: Any) -> None:
    assert merge(value, value) == value


@given(
    st.dictionaries(st.text(max_size=2), json_values),
    st.dictionaries(st.text(max_size=2), json_values),
)
def test_merging_an_overlay_twice_equals_merging_it_once(base: Any, over: Any) -> None:
    once = merge(base, over)
    assert merge(once, over) == once
    assert set(once) == set(base) | set(over)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("spec: [", "cannot be read"),
        ("- a\n- b\n", "a map with `metadata` and `spec`"),
        ("containers: []", "a map with `metadata` and `spec`"),
        ("metadata: {name: mine}", "sets metadata.name: leave it out, each run has its own"),
        ("metadata: {namespace: mine}", "sets metadata.namespace: leave it out"),
        (
            "metadata: {labels: {enrollgate.io/task-id: '1'}}",
            "sets the label enrollgate.io/task-id: leave enrollgate.io/",
        ),
        (
            "spec: {template: {metadata: {labels: {enrollgate.io/x: null}}}}",
            "sets the label enrollgate.io/x",
        ),
    ],
)
def test_an_invalid_template_is_refused_with_its_file_name(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match="job.yaml") as error:
        read_template(file)
    assert words in str(error.value)
    file.write_text("")
    assert read_template(file) == {}


_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", "$", "$$(HOME)", "name", "ENROLLGATE_TASK_ID", "enrollgate.io/run", "\0"]),
)
_ORDERS = st.builds(
    RunOrder,
    name=_TEXTS,
    task_id=st.integers(-(2**63), 2**64),
    run_number=st.integers(0, 2**31),
    course_url=_TEXTS,
    cookies_name=_TEXTS,
    claim_id=_TEXTS,
)
_LABELS = st.none() | st.dictionaries(_TEXTS, st.none() | _TEXTS, max_size=3)
_VARIABLES: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(
                ["ENROLLGATE_TASK_ID", "ENROLLGATE_SCRATCH_DIR", "HOME", "name", "MINE"]
            )
        },
        optional={"value": st.none() | _TEXTS, "valueFrom": st.just({"fieldRef": {}})},
    ),
    max_size=4,
)


@st.composite
def _templates(draw: st.DrawFn) -> dict[str, Any]:
    """Partial Jobs with odd labels, annotations and variables, also of the product's own names."""
    containers = [{"name": name, "env": draw(_VARIABLES)} for name in ("worker", "name")]
    return {
        "metadata": {"labels": draw(_LABELS), "annotations": draw(_LABELS)},
        "spec": {
            "template": {
                "metadata": {"labels": draw(_LABELS), "annotations": draw(_LABELS)},
                "spec": draw(st.sampled_from([{}, {"containers": containers}, None])),
            }
        },
    }


@given(_templates(), st.lists(_ORDERS, min_size=2, max_size=3), _TEXTS)
def test_job_filled_into_the_template_equals_the_full_rendering(
    over: dict[str, Any], orders: list[RunOrder], subject: str
) -> None:
    settings = replace(
        job_settings(template=over),
        worker=WorkerSettings(drive_subject=subject or None),
    )
    template = JobTemplate(settings)
    built = [template.build(order) for order in orders]
    assert built == [build_job(order, settings) for order in orders], (
        "a Job must not change another"
    )
    # The values are plain texts in the JSON, whatever they are in the template.
    assert [orjson.loads(orjson.dumps(job)) for job in built] == built
