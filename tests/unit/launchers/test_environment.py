import os
from pathlib import Path

from enrollgate.common.environment import inherited_environment
from enrollgate.launchers.local.environment import child_environment


def test_child_environment_passes_on_only_listed_variables() -> None:
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


def test_google_credentials_reach_a_worker_but_not_a_command() -> None:
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "/run/key.json", "CLOUDSDK_CONFIG": "/run/gcloud"}
    assert child_environment(environ, {}) == environ and inherited_environment(environ) == {}


def test_child_environment_worker_settings_win() -> None:
    assert child_environment({"TMPDIR": "/a"}, {"TMPDIR": "/b", "X": "y"}) == {
        "TMPDIR": "/b",
        "X": "y",
    }


def test_child_environment_makes_pythonpath_absolute() -> None:
    passed = child_environment({"PYTHONPATH": os.pathsep.join(["operator", "", "/opt/x"])}, {})
    assert passed == {"PYTHONPATH": os.pathsep.join([str(Path.cwd() / "operator"), "/opt/x"])}
