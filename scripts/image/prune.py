"""Remove what the image does not use from its virtual environment, and compile what it does.

The image's build runs this with the Python of that environment. docs/decisions/0008-small-image.md
says what is removed and why. tests/image proves that operator and worker still run.
"""

import compileall
import importlib
import pkgutil
import shutil
import sys
import sysconfig
from pathlib import Path
from py_compile import PycInvalidationMode

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
# Google's descriptions of all its services. `drive/client.py` reads this one.
DISCOVERY_DOCUMENTS = "googleapiclient/discovery_cache/documents"
DISCOVERY_DOCUMENT = "drive.v3.json"
# The asynchronous Kubernetes client, and the tests that packages bring along.
UNUSED = ("kubernetes/aio", "Cryptodome/SelfTest", "sqlalchemy/testing")
# Beside our own modules: what they import only when it is needed.
IMPORTED_LATE = (
    "kubernetes.config",
    "pymysql",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
    "yt_dlp.extractor.extractors",
)


def prune() -> None:
    """Remove what is not used."""
    for document in (SITE_PACKAGES / DISCOVERY_DOCUMENTS).iterdir():
        if document.name != DISCOVERY_DOCUMENT:
            document.unlink()
    byte_code = list(SITE_PACKAGES.rglob("__pycache__"))
    for folder in (*byte_code, *(SITE_PACKAGES / name for name in UNUSED)):
        shutil.rmtree(folder, ignore_errors=folder in byte_code)


def compile_imported() -> None:
    """Write byte code of every module that operator and worker import, and of no other.

    The files on a read-only root never change, so their times are not looked at: see
    https://docs.python.org/3/library/py_compile.html#py_compile.PycInvalidationMode
    """
    import enrollgate

    ours = [module.name for module in pkgutil.walk_packages(enrollgate.__path__, "enrollgate.")]
    for name in (*ours, *IMPORTED_LATE):
        if not name.endswith(("__main__", ".env")) and "versions." not in name:
            importlib.import_module(name)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        if path.endswith(".py") and Path(path).is_relative_to(SITE_PACKAGES):
            compileall.compile_file(
                path, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
            )


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    prune()
    compile_imported()
