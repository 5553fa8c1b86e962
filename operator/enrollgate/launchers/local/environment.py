"""What a local run inherits of the operator's environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from enrollgate.common.environment import passed_on

_IDENTITY = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")
"""Where the workload's own Google credentials are (files; https://google.aip.dev/auth/4110): the worker's, not its command's."""


def child_environment(environ: Mapping[str, str], worker_env: Mapping[str, str]) -> dict[str, str]:
    """What a supervisor and its worker are given: those variables of `environ` that are passed on, where Python finds us and
    where Google's credentials are, and the worker's settings, which win.
    """
    passed = passed_on(environ) | {name: environ[name] for name in _IDENTITY if name in environ}
    if "PYTHONPATH" in environ:  # the children have another working directory
        folders = environ["PYTHONPATH"].split(os.pathsep)
        passed["PYTHONPATH"] = os.pathsep.join(
            str(Path(folder).absolute()) for folder in folders if folder
        )
    return passed | dict(worker_env)
