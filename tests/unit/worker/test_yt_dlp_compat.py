"""The canary for upgrades of yt-dlp: each internal name that we use still exists, unchanged.

A failure names what changed. Read its new code, adapt the downloaders, then record the new
signature in yt_dlp_compat.py.
"""

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrollgate.worker import downloaders
from enrollgate.worker.downloaders import (
    answers,
    cookie_jar,
    direct,
    extractors,
    guarded,
    network_guard,
    refused,
    streams,
    yt_dlp_compat,
)

FOLDER = Path(downloaders.__path__[0])
# What yt-dlp documents for programs that embed it:
# https://github.com/yt-dlp/yt-dlp#embedding-yt-dlp
PUBLIC_MODULES = {"yt_dlp", "yt_dlp.utils", "yt_dlp.postprocessor.common"}
OUR_CLASSES = [
    cookie_jar.SharedCookieJar,
    direct.DurableHttpFD,
    extractors.UdemyIE,
    extractors.UdemyCourseIE,
    extractors.UdemyAssetIE,
    extractors.GenericIE,
    guarded._GuardedYoutubeDL,
    refused.RequestRefused,
    answers.BoundedResponse,
    network_guard._GuardedHTTPHandler,
    network_guard._GuardedRedirectHandler,
    network_guard.GuardedRequestHandler,
    streams.DurableFragmentFD,
    streams.DurableHlsFD,
    streams.DurableDashFD,
]


def signature(function: object) -> str:
    """Return the parameters without annotations, and without the values of defaults."""
    assert callable(function)
    parameters = [
        each.replace(
            annotation=each.empty, default=each.empty if each.default is each.empty else ...
        )
        for each in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(parameters)).replace("=Ellipsis", "=")


@pytest.mark.parametrize("name", yt_dlp_compat.SIGNATURES)
def test_a_recorded_name_of_yt_dlp_has_its_recorded_signature(name: str) -> None:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(f"yt-dlp has removed {name}")
    assert signature(found) == yt_dlp_compat.SIGNATURES[name], f"yt-dlp has changed {name}"


@pytest.mark.parametrize("name", yt_dlp_compat.ATTRIBUTES)
def test_an_instance_has_its_recorded_attributes(name: str) -> None:
    instance = pkgutil.resolve_name(name)()
    try:
        missing = [each for each in yt_dlp_compat.ATTRIBUTES[name] if not hasattr(instance, each)]
    finally:
        if isinstance(instance, yt_dlp_compat.YoutubeDL):
            instance.close()
    assert missing == [], f"yt-dlp has removed attributes of {name}"


def overridden_methods() -> Iterator[str]:
    """Yield the methods of yt-dlp that our classes override, by their import paths."""
    for ours in OUR_CLASSES:
        theirs = [base for base in ours.__mro__ if base.__module__.startswith("yt_dlp")]
        for name, member in vars(ours).items():
            owner = next((base for base in theirs if name in vars(base)), None)
            if owner is not None and inspect.isfunction(member) and name != "__init__":
                yield f"{owner.__module__}:{owner.__qualname__}.{name}"


def test_each_method_that_we_override_is_recorded() -> None:
    recorded = {pkgutil.resolve_name(name) for name in yt_dlp_compat.SIGNATURES}
    overridden = {name: pkgutil.resolve_name(name) for name in overridden_methods()}
    assert len(overridden) >= 10
    assert [name for name, method in overridden.items() if method not in recorded] == []


def test_each_internal_name_that_is_imported_is_recorded() -> None:
    recorded = {name.partition(".")[0] for name in map(last_part, yt_dlp_compat.SIGNATURES)}
    recorded |= {last_part(name) for name in yt_dlp_compat.ATTRIBUTES}
    imported = {name for _, name in yt_dlp_imports(FOLDER / "yt_dlp_compat.py")}
    assert imported - recorded == set(), "record their signatures"


def last_part(name: str) -> str:
    return name.partition(":")[2]


@pytest.mark.parametrize(
    "path",
    [path for path in FOLDER.glob("*.py") if path.name != "yt_dlp_compat.py"],
    ids=lambda path: path.name,
)
def test_no_other_module_imports_internals_of_yt_dlp(path: Path) -> None:
    modules = {module for module, _ in yt_dlp_imports(path)}
    assert modules <= PUBLIC_MODULES, "import it from yt_dlp_compat"


def yt_dlp_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the modules and names that a file imports from yt-dlp."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "yt_dlp":
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_a_replaced_method_keeps_the_signature_of_the_original() -> None:
    class Theirs:
        def method(self, url: str, *, retries: int = 3) -> None: ...

    yt_dlp_compat.replace_method(Theirs, "method", lambda *_: None)
    assert signature(Theirs.method) == "(self, url, *, retries=)"
    with pytest.raises(AttributeError, match="gone"):
        yt_dlp_compat.replace_method(Theirs, "gone", lambda *_: None)
