"""`enrollgate explain`: the whole story of a task, in every situation, on real databases."""

import json
import os
import subprocess
import sys
from contextlib import closing

import pytest
from tests.explained import (
    EMAIL,
    PAGE,
    POLICY,
    SITUATIONS,
    Situation,
    failed_by_cookies,
    image_pull,
    queued,
    transcript,
    waiting,
)
from tests.world import World

from enrollgate.domain.account import cookies_name


def explain(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrollgate", "explain", *arguments],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ENROLLGATE_DATABASE_URL": url,
            "ENROLLGATE_INSTALLATION": "test",
            "KUBECONFIG": "/nowhere/kubeconfig",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("title", "situation"), SITUATIONS.items(), ids=list(SITUATIONS))
def test_transcript_of_each_situation_is_in_the_docs(
    sqlite_url: str, title: str, situation: Situation
) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        text = transcript(world, situation)
    assert EMAIL not in text and all(len(line) <= 80 for line in text.splitlines()), text
    page = PAGE.read_text(encoding="utf-8")
    assert f"## {title}\n\n```text\n{text}```\n" in page, f"python -m tests.explained > {PAGE}"


def test_transcripts_on_a_server_are_the_same(server_database_url: str) -> None:
    for situation in (queued, failed_by_cookies):
        with closing(World(server_database_url, POLICY)) as world:
            text = transcript(world, situation)
            assert text in PAGE.read_text(encoding="utf-8")
            for table in ("download_tasks", "enrollgate_tasks", "enrollgate_runs"):
                world.sql(f"DELETE FROM {table}")
            world.sql("DROP TABLE download_tasks")


def test_failure_by_cookies_names_the_file_to_replace(sqlite_url: str) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        text = " ".join(transcript(world, failed_by_cookies).split())
    assert "CookiesExpired" in text and "Glazing" in text
    assert f"The account's file is {cookies_name(EMAIL)}." in text


@pytest.mark.parametrize("situation", [waiting, queued, image_pull])
def test_operator_that_is_down_comes_first(sqlite_url: str, situation: Situation) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        text = " ".join(transcript(world, situation, silence=600).split())
    assert "made its last pass 10 min ago: it is down" in text
    assert "`enrollgate doctor` finds what is wrong" in text


def test_finished_task_does_not_complain_of_a_stopped_operator(sqlite_url: str) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        text = transcript(world, failed_by_cookies, silence=600)
    assert "it is down" not in text


def test_command_explains_by_id_and_by_run_name(sqlite_url: str) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        transcript(world, failed_by_cookies)
    by_id, by_name = explain(sqlite_url, "1"), explain(sqlite_url, "test-1-1")
    assert by_id.returncode == by_name.returncode == 0, by_id
    assert "CookiesExpired" in by_id.stdout and EMAIL not in by_id.stdout
    data = json.loads(explain(sqlite_url, "1", "--json").stdout)
    assert data["state"] == "failed" and data["account"] == "a***@example.com"
    assert data["runs"][0]["reason"] == "CookiesExpired" and data["now"].endswith("Z")
    assert data["result"]["failed_items"][0]["item"] == "Glazing"


def test_command_without_a_cluster_says_so_and_shows_the_rest(sqlite_url: str) -> None:
    with closing(World(sqlite_url, POLICY)) as world:
        transcript(world, image_pull)
    done = explain(sqlite_url, "1")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, done
    assert "no Kubernetes cluster is configured" in text and "run 1 launched" in text


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("77", 1, "there is no task 77"),
        (str(2**64), 1, "there is no task"),
        ("test--5-1", 1, "there is no task -5"),
        ("https://courses.example.com/1", 2, "give the row's id"),
        ("-1", 2, ""),
    ],
)
def test_task_that_does_not_exist_is_an_error_with_a_remedy(
    sqlite_url: str, task: str, code: int, message: str
) -> None:
    World(sqlite_url).close()
    done = explain(sqlite_url, task)
    assert (done.returncode, done.stdout) == (code, "") and message in done.stderr, done


def test_text_of_a_row_cannot_steer_the_terminal(sqlite_url: str) -> None:
    with closing(World(sqlite_url)) as world:
        task = world.add(
            "\x1b[31mred\nTask 9", EMAIL, "https://a.example/?token=hunter2\x1b]0;x\x07"
        )
        done = explain(sqlite_url, str(task))
    assert "\x1b" not in done.stdout and "\nTask 9" not in done.stdout
    assert "hunter2" not in done.stdout and "left alone" in done.stdout
