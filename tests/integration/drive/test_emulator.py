"""The emulator's answers have the shape that Google's discovery document gives to Drive's."""

from typing import Any

import pytest
from tests.integration.drive.bench import Bench

from enrollgate.worker.destinations.drive.client import load_discovery_document

DOCUMENT = load_discovery_document()
TYPES: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict}


def check_shape(answer: dict[str, Any], schema: str) -> None:
    """Compare each field of an answer, and its type, with a schema of the document."""
    properties = DOCUMENT["schemas"][schema]["properties"]
    for name, value in answer.items():
        assert isinstance(value, TYPES[properties[name]["type"]]), f"{schema}.{name} = {value!r}"


def test_metadata_has_the_fields_and_types_of_the_api(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.deliver(drive, 1, "Start")
    files = list(bench.emulator.store.files.values())
    assert len(files) == 4
    for file in files:
        check_shape(file, "File")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("generateIds", "files/generateIds"),
        ("list", "files"),
        ("get", "files/{fileId}"),
        ("create", "files"),
        ("update", "files/{fileId}"),
        ("delete", "files/{fileId}"),
    ],
)
def test_paths_are_those_of_the_api(method: str, path: str) -> None:
    description = DOCUMENT["resources"]["files"]["methods"][method]
    assert DOCUMENT["servicePath"] + description["path"] == f"drive/v3/{path}"


def test_resumable_uploads_use_the_path_of_the_api() -> None:
    upload = DOCUMENT["resources"]["files"]["methods"]["create"]["mediaUpload"]
    assert upload["protocols"]["resumable"]["path"] in (
        "/upload/drive/v3/files",
        "/resumable/upload/drive/v3/files",
    )
