import os
from pathlib import Path

from enrollgate.common.environment import passed_on
from enrollgate.launchers.local.environment import child_environment


def test_only_listed_variables_are_passed_on() -> None:
    environ = {
        "PATH": "/bin",
        "LC_TIME": "C",
        "no_proxy": "localhost",
        "ENROLLGATE_DATABASE_URL": "mysql://root:secret@db/x",
        "ENROLLGATE_DATABASE__PASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LD_PRELOAD": "/tmp/x.so",
    }
    assert child_environment(environ, {}) == {
        "PATH": "/bin",
        "LC_TIME": "C",
        "no_proxy": "localhost",
    }


def test_a_worker_finds_the_workloads_own_google_credentials_and_a_command_does_not() -> None:
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "/run/key.json", "CLOUDSDK_CONFIG": "/run/gcloud"}
    assert child_environment(environ, {}) == environ and passed_on(environ) == {}


def test_the_workers_settings_win() -> None:
    assert child_environment({"TMPDIR": "/a"}, {"TMPDIR": "/b", "X": "y"}) == {
        "TMPDIR": "/b",
        "X": "y",
    }


def test_the_places_of_modules_do_not_depend_on_the_working_directory() -> None:
    passed = child_environment({"PYTHONPATH": os.pathsep.join(["operator", "", "/opt/x"])}, {})
    assert passed == {"PYTHONPATH": os.pathsep.join([str(Path.cwd() / "operator"), "/opt/x"])}
