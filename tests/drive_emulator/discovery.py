"""Check requests and answers against Google's own description of the Drive v3 API.

The description is `drive.v3.json`, which google-api-python-client ships. A request that it does not
describe is refused with Google's status and reason; an answer of ours that it does not describe is
a fault of the emulator, an AssertionError.

The texts follow https://developers.google.com/workspace/drive/api/guides/handle-errors, and for
`fields` https://developers.google.com/workspace/drive/api/guides/fields-parameter.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import unquote

from tests.drive_emulator.store import Refused

DOCUMENT: dict[str, Any] = json.loads(
    resources.files("googleapiclient.discovery_cache")
    .joinpath("documents/drive.v3.json")
    .read_text("utf-8")
)
_UPLOAD = "/upload/drive/v3/"
# What Drive answers without `fields`.
_DEFAULT_FIELDS = {
    "File": "kind,id,name,mimeType,resourceKey",
    "FileList": "kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType,resourceKey)",
}
_PYTHON_TYPES: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict}
_FORMATS = {
    "int64": re.compile(r"-?\d{1,19}"),
    "date-time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
}
# `orderBy` of files.list, from its description.
_SORT_KEYS = frozenset({"createdTime", "folder", "modifiedByMeTime", "modifiedTime", "name"}) | {
    *("name_natural", "quotaBytesUsed", "recency", "sharedWithMeTime", "starred", "viewedByMeTime")
}


@dataclass(frozen=True)
class Call:
    """A request that matches a method of the API. `arguments` are those in its path."""

    name: str  # of the method, for instance `list`
    description: Mapping[str, Any]
    arguments: Mapping[str, str]
    is_upload: bool


def find_call(http_method: str, path: str) -> Call | None:
    """Return the method of the API that has this path, or None."""
    is_upload = path.startswith(_UPLOAD)
    rest = path.removeprefix(_UPLOAD) if is_upload else path.removeprefix("/drive/v3/")
    if rest == path:
        return None
    methods: dict[str, Any] = DOCUMENT["resources"]["files"]["methods"]
    # The longest path first: `files/generateIds` would match `files/{fileId}` as well.
    for name, description in sorted(methods.items(), key=lambda pair: "{" in pair[1]["path"]):
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(description["path"]))
        found = re.fullmatch(pattern, rest)
        if (
            found is not None
            and description["httpMethod"] == http_method
            and (not is_upload or description.get("supportsMediaUpload"))
        ):
            arguments = {key: unquote(value) for key, value in found.groupdict().items()}
            return Call(name, description, arguments, is_upload)
    return None


def check_query(call: Call, query: Mapping[str, list[str]]) -> None:
    """Refuse parameters that the method does not have, and values that it does not take."""
    known = DOCUMENT["parameters"] | call.description.get("parameters", {})
    for name, values in query.items():
        parameter = known.get(name)
        if parameter is None or parameter["location"] != "query":
            raise Refused(
                400,
                "badRequest",
                f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query '
                f"parameter. Field '{name}' could not be found in request message.",
            )
        if parameter.get("deprecated"):
            raise Refused(400, "badRequest", f"{name} is deprecated.")
        if len(values) > 1 and not parameter.get("repeated"):
            raise Refused(400, "badRequest", f"{name} is given more than once.")
        for value in values:
            _check_parameter(name, value, parameter)
    if call.name == "list":
        _check_list(query)
    if "response" in call.description and "fields" in query:
        select_fields(call.description["response"]["$ref"], query["fields"][0], {})


def _check_parameter(name: str, value: str, parameter: Mapping[str, Any]) -> None:
    kind, is_valid = parameter["type"], True
    if kind == "integer":
        low, high = int(parameter.get("minimum", -(2**31))), int(parameter.get("maximum", 2**31))
        is_valid = re.fullmatch(r"-?\d{1,10}", value) is not None and low <= int(value) <= high
    elif kind == "boolean":
        is_valid = value in ("true", "false")
    elif "enum" in parameter:
        is_valid = value in parameter["enum"]
    if not is_valid:
        raise Refused(400, "invalidParameter", f"Invalid value '{value}' for {name}.")


def _check_list(query: Mapping[str, list[str]]) -> None:
    """Check what the description of files.list says in words only."""
    first = {name: values[0] for name, values in query.items()}
    for key in first.get("orderBy", "name").split(","):
        if key.strip().removesuffix(" desc").strip() not in _SORT_KEYS:
            raise Refused(400, "invalid", f"Invalid Value: orderBy {key}")
    if first.get("corpora", "user") not in ("user", "domain", "drive", "allDrives"):
        raise Refused(400, "invalid", "Invalid Value: corpora")
    if ("driveId" in first) != (first.get("corpora") == "drive"):
        message = "The driveId parameter must be specified if and only if corpora is set to drive."
        raise Refused(400, "invalid", message)
    if first.get("corpora") in ("drive", "allDrives") and (
        first.get("includeItemsFromAllDrives") != "true" or first.get("supportsAllDrives") != "true"
    ):
        message = "The includeItemsFromAllDrives parameter must be set to true for this corpora."
        raise Refused(400, "invalid", message)


def check_body(schema: str, body: object) -> None:
    """Refuse fields that the schema does not have, that only Drive writes, or of a wrong type."""
    if not isinstance(body, dict):
        raise Refused(400, "parseError", "Parse Error")
    for path, problem in _differences({"$ref": schema}, body, schema):
        message = f"Invalid JSON payload received. {problem} at '{path}'."
        raise Refused(400, "badRequest", message)
    for name in body:
        text = DOCUMENT["schemas"][schema]["properties"][name].get("description", "")
        if text.startswith(("Output only", "Deprecated: Output only")):
            message = "The resource body includes fields which are not directly writable."
            raise Refused(403, "fieldNotWritable", message)


def check_answer(schema: str, answer: object) -> None:
    """Raise AssertionError if the API would not answer so."""
    for path, problem in _differences({"$ref": schema}, answer, schema):
        raise AssertionError(f"the emulator's answer is not Drive's: {problem} at {path}")


def _differences(kind: Mapping[str, Any], value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield where a value differs from its type in the document, and how."""
    if "$ref" in kind:
        kind = DOCUMENT["schemas"][kind["$ref"]]
    expected = _PYTHON_TYPES.get(kind["type"], int)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        yield path, f"not a {kind['type']}"
    elif isinstance(value, str):
        pattern = _FORMATS.get(kind.get("format", ""))
        if (pattern and not pattern.fullmatch(value)) or value not in kind.get("enum", [value]):
            yield path, f"not a {kind.get('format', 'known value')}"
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _differences(kind["items"], each, f"{path}[{number}]")
    elif isinstance(value, dict):
        for name, each in value.items():
            inner = kind.get("properties", {}).get(name) or kind.get("additionalProperties")
            if inner is None:
                yield f"{path}.{name}", f'Unknown name "{name}"'
            elif each is None and "null values are cleared" in kind.get("description", ""):
                pass  # the property is removed
            else:
                yield from _differences(inner, each, f"{path}.{name}")


def select_fields(schema: str, mask: str | None, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an answer that `fields` asks for. Refuses names that do not exist."""
    text = mask if mask is not None else _DEFAULT_FIELDS.get(schema, "*")
    tree, rest = _parse_mask(text)
    if rest:
        raise Refused(400, "invalidParameter", f"Invalid field selection {text}")
    selected: dict[str, Any] = _select({"$ref": schema}, tree, answer)
    return selected


def _parse_mask(text: str) -> tuple[dict[str, Any], str]:
    """Parse `a,b(c,d),e/f` into a tree; return it and the text that is left."""
    tree: dict[str, Any] = {}
    while True:
        name = re.match(r"\s*([A-Za-z]\w*|\*)", text)
        if name is None:
            raise Refused(400, "invalidParameter", f"Invalid field selection {text}")
        text = text[name.end() :]
        inner: dict[str, Any] = {}
        if text.startswith("/"):
            inner, text = _parse_mask(text[1:])
            return tree | {name[1]: inner}, text
        if text.startswith("("):
            inner, text = _parse_mask(text[1:])
            if not text.startswith(")"):
                raise Refused(400, "invalidParameter", f"Invalid field selection {text}")
            text = text[1:]
        tree[name[1]] = inner
        if not text.startswith(","):
            return tree, text
        text = text[1:]


def _select(kind: Mapping[str, Any], tree: dict[str, Any], value: Any) -> Any:
    if "$ref" in kind:
        kind = DOCUMENT["schemas"][kind["$ref"]]
    if kind["type"] == "array":
        items = value if isinstance(value, list) else [None]
        selected = [_select(kind["items"], tree, each) for each in items]
        return selected if isinstance(value, list) else None
    properties = kind.get("properties", {})
    result: dict[str, Any] = {}
    for name, inner in tree.items():
        if name == "*":
            result |= value or {}
            continue
        field = properties.get(name) or kind.get("additionalProperties")
        if field is None:
            raise Refused(400, "invalidParameter", f"Invalid field selection {name}")
        found = value.get(name) if isinstance(value, dict) else None
        if inner:
            found = _select(field, inner, found)
        if found is not None:
            result[name] = found
    return result if isinstance(value, dict) else None
