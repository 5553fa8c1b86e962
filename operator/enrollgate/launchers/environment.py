"""What a local run inherits of the operator's environment: a short list, since the database password may be in the rest."""

import os
from collections.abc import Mapping
from pathlib import Path

_PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (proxy, proxy.lower())}
)


def child_environment(environ: Mapping[str, str], worker_env: Mapping[str, str]) -> dict[str, str]:
    """What a supervisor and its worker are given: those variables of `environ` that are passed on, and the worker's
    settings, which win.
    """
    passed = {name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    if "PYTHONPATH" in passed:  # the children have another working directory
        folders = passed["PYTHONPATH"].split(os.pathsep)
        passed["PYTHONPATH"] = os.pathsep.join(str(Path(folder).absolute()) for folder in folders if folder)
    return passed | dict(worker_env)
