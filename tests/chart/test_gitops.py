"""What Argo CD and Flux need: equal renders, Jobs they do not prune, true examples in the docs."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.chart.examples import EXAMPLES, VALUES
from tests.chart.rendering import (
    EVERYTHING,
    REQUIRED,
    Json,
    error_message,
    merged,
    one,
    render,
    schema_errors,
)
from tests.cluster.chart import CHART, REPOSITORY, helm
from tests.job_settings import job_settings

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes import job_selector
from enrollgate.launchers.kubernetes.manifest import build_job

INSTANCE = "app.kubernetes.io/instance"


def test_renders_of_the_same_values_do_not_differ(tmp_path: Path) -> None:
    """Argo CD renders again and again. Whatever differs, it reports as out of sync."""
    volumes = [{"name": f"v{number}", "emptyDir": {}} for number in range(8)]
    mounts = [{"name": each["name"], "mountPath": f"/{each['name']}"} for each in volumes]
    pod = {"volumes": volumes, "containers": [{"name": "worker", "volumeMounts": mounts}]}
    overlay = {"worker": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(merged(EVERYTHING, overlay)), encoding="utf-8")
    template = ("template", "school", str(CHART), "-n", "courses", "-f", str(values))
    renders = [helm(*template) for _ in range(4)]
    renders.append(helm(*template, "--is-upgrade"))

    assert {each.returncode for each in renders} == {0}, renders[0].stderr
    assert len({each.stdout for each in renders}) == 1


def test_templates_use_no_function_with_a_changing_result() -> None:
    names = r"rand\w+|uuidv4|now|lookup|gen(CA|SelfSigned|Signed|PrivateKey)\w*|keys|values"
    found = []
    for path in sorted((CHART / "templates").rglob("*.*")):
        text = re.sub(
            r"/\*.*?\*/|\"[^\"]*\"", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        for block in re.findall(r"{{.*?}}", text, re.DOTALL):
            found += [path.name for _ in re.finditer(rf"(?<![$.\w])({names})\b", block)]

    assert found == []


def test_jobs_have_no_label_by_which_argo_cd_prunes(tmp_path: Path) -> None:
    """It deletes what has this label of an application and is not in Git (argo-cd issue 10456)."""
    for values in (REQUIRED, EVERYTHING):
        template = one(render(tmp_path, values), "ConfigMap", "-job-template")["data"]["job.yaml"]
        job = build_job(
            RunOrder("school-7-1", 7, 1, "https://courses.example.com/1", "cookies.txt"),
            job_settings("courses", "school", "enrollgate:1", template=yaml.safe_load(template)),
        )
        assert INSTANCE not in template
        for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
            assert INSTANCE not in labels
            assert labels["enrollgate.io/installation"] == "school"


def test_jobs_of_a_chart_with_the_instance_label_are_still_found() -> None:
    """The operator, and the NetworkPolicy of workers, select by the installation alone."""
    assert job_selector("school").split(",")[0] == "enrollgate.io/installation=school"
    assert INSTANCE not in job_selector("school")


@pytest.mark.parametrize(
    "values",
    [
        {"worker": {"labels": {INSTANCE: "school"}}},
        {"worker": {"jobTemplate": {"metadata": {"labels": {INSTANCE: "school"}}}}},
        {
            "worker": {
                "jobTemplate": {"spec": {"template": {"metadata": {"labels": {INSTANCE: "x"}}}}}
            }
        },
    ],
)
def test_label_by_which_argo_cd_prunes_is_refused(tmp_path: Path, values: Json) -> None:
    message = error_message(tmp_path, merged(REQUIRED, values))

    assert f"sets the label {INSTANCE}: remove it. Argo CD would delete" in message


def test_the_docs_have_examples_with_values() -> None:
    pages = {place.split(":")[0] for place in EXAMPLES}

    assert {"docs/gitops.md", "docs/operations.md", "docs/page.md", "docs/monitoring.md"} <= pages


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_the_docs_renders_valid_objects(tmp_path: Path, example: str) -> None:
    assert not schema_errors(render(tmp_path, EXAMPLES[example]))


@pytest.mark.parametrize(
    "page",
    [
        str(page.relative_to(REPOSITORY))
        for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
        if "--set" in page.read_text(encoding="utf-8")
    ],
)
def test_every_value_that_a_page_sets_exists(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for path in re.findall(r"--set(?:-file|-string|-json)?[ =]'?([A-Za-z.]+)", text):
        assert path.split(".")[0] in VALUES, path


def test_chart_works_inside_a_chart_of_charts(tmp_path: Path) -> None:
    """There, `global` belongs to the parent. `null` removes a default there too."""
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "enrollgate").symlink_to(CHART)
    (parent / "Chart.yaml").write_text("{apiVersion: v2, name: parent, version: 1.0.0}\n")
    ours = merged(REQUIRED, {"podSecurityContext": {"runAsUser": None}})
    values = {"global": {"imageRegistry": "registry.example.com"}, "enrollgate": ours}
    # In the parent's own values.yaml, Helm ignores null.
    (tmp_path / "values.yaml").write_text(json.dumps(values), encoding="utf-8")

    given = ("-n", "courses", "-f", str(tmp_path / "values.yaml"))
    done = helm("template", "school", str(parent), *given)

    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert "runAsUser" not in pod["securityContext"] and not schema_errors(objects)
