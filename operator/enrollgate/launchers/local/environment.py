"""Build the environment of a local run.

In come the operator's own environment and the worker's settings. Out comes what a supervisor and
its worker get. It is separate because a password of the operator must never reach a worker.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from enrollgate.common.environment import inherited_environment

# The files with the workload's own Google credentials (https://google.aip.dev/auth/4110). The
# worker may read them, a download command may not.
_IDENTITY = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")


def child_environment(environ: Mapping[str, str], worker_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a supervisor and its worker.

    It holds the harmless variables of `environ`, the places of Google's credentials and of
    Python's modules, and `worker_env` (`WorkerSettings.to_env()`), which wins.
    """
    passed = inherited_environment(environ) | {
        name: environ[name] for name in _IDENTITY if name in environ
    }
    if "PYTHONPATH" in environ:  # the children have another working directory
        folders = environ["PYTHONPATH"].split(os.pathsep)
        passed["PYTHONPATH"] = os.pathsep.join(
            str(Path(folder).absolute()) for folder in folders if folder
        )
    return passed | dict(worker_env)
