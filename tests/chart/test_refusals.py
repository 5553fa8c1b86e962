"""Values that the chart refuses, and what it says then."""

from pathlib import Path
from typing import Any

import pytest
from tests.chart.rendering import REQUIRED, merged, refusal

DATABASE = {"database": {"existingSecret": "courses-database"}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no database": ({"destination": "drive:x"}, "No database: set database.existingSecret"),
    "two databases": (
        merged(REQUIRED, {"database": {"url": "mysql://u:p@h/n"}}),
        "exclude each other",
    ),
    "half a database": (
        {"destination": "drive:x", "database": {"host": "h"}},
        "database.host needs database.user and database.name",
    ),
    **{
        f"a {part} beside a Secret": (
            merged(REQUIRED, {"database": {part: "x"}}),
            "go with database.host, which is not",
        )
        for part in ("user", "password", "name")
    },
    "a password beside a URL": (
        {"destination": "drive:x", "database": {"url": "mysql://u:p@h/n", "password": "p"}},
        "go with database.host, which is not",
    ),
    "parts of what is no Secret": (
        {"destination": "drive:x", "database": {"url": "mysql://u:p@h/n", "form": "parts"}},
        "database.form says what database.existingSecret holds",
    ),
    "no destination": (DATABASE, "No destination: set destination"),
    "a directory that is lost": (
        DATABASE | {"destination": "directory:/courses"},
        "destinationVolume.existingClaim",
    ),
    "a volume for nothing": (
        REQUIRED | {"destinationVolume": {"existingClaim": "c"}},
        "destination is no directory",
    ),
    "two volumes": (
        DATABASE
        | {
            "destination": "directory:/c",
            "destinationVolume": {"existingClaim": "c", "create": True},
        },
        "destinationVolume.existingClaim and destinationVolume.create exclude each other",
    ),
    "drive for a directory": (
        DATABASE
        | {
            "destination": "directory:/c",
            "destinationVolume": {"create": True},
            "drive": {"existingSecret": "g"},
        },
        "drive is set, but destination is no Drive folder",
    ),
    "cookies twice": (
        REQUIRED | {"cookies": {"existingSecret": "c", "files": {"cookies.txt": "x"}}},
        "cookies.existingSecret and cookies.files exclude each other",
    ),
    "a cookies file that no worker looks for": (
        REQUIRED | {"cookies": {"files": {"ada@example.com.txt": "x"}}},
        "'ada@example.com.txt' does not match pattern '^cookies",
    ),
    "credentials twice": (
        REQUIRED | {"drive": {"existingSecret": "g", "credentials": "{}"}},
        "drive.existingSecret and drive.credentials exclude each other",
    ),
    "credentials that are a file's name": (
        REQUIRED | {"drive": {"credentials": "key.json"}},
        "/drive/credentials'",
    ),
    "a command without words": (
        REQUIRED | {"downloader": "command"},
        "downloader: command needs downloadCommand",
    ),
    "words without a command": (
        REQUIRED | {"downloadCommand": ["wget"]},
        "downloadCommand is set but unused",
    ),
    "an account that nobody made": (
        REQUIRED | {"serviceAccount": {"create": False}},
        "needs serviceAccount.name",
    ),
    "the token of no account": (
        REQUIRED | {"worker": {"automountServiceAccountToken": True}},
        "needs worker.serviceAccountName",
    ),
    "a name for all Jobs": (
        REQUIRED | {"worker": {"jobTemplate": {"metadata": {"name": "x"}}}},
        "leave metadata.name out",
    ),
    "another place for all Jobs": (
        REQUIRED | {"worker": {"jobTemplate": {"metadata": {"namespace": "x"}}}},
        "leave it out, Jobs are where the operator looks for them",
    ),
    "a label that Jobs are known by": (
        REQUIRED | {"worker": {"labels": {"enrollgate.io/installation": "x"}}},
        "worker.labels sets the label enrollgate.io/installation: leave enrollgate.io/ out",
    ),
    "such a label in the overlay": (
        REQUIRED
        | {"worker": {"jobTemplate": {"metadata": {"labels": {"enrollgate.io/recorded": "true"}}}}},
        "worker.jobTemplate sets the label enrollgate.io/recorded",
    ),
    "such a label of the pods": (
        REQUIRED
        | {
            "worker": {
                "jobTemplate": {
                    "spec": {
                        "template": {"metadata": {"labels": {"enrollgate.io/run_number": "9"}}}
                    }
                }
            }
        },
        "worker.jobTemplate's pod sets the label enrollgate.io/run_number",
    ),
    "a name that begins with a digit": (
        REQUIRED | {"fullnameOverride": "1st"},
        "at '/fullnameOverride': '1st' does not match",
    ),
    "a name with a dot": (
        REQUIRED | {"fullnameOverride": "a.b"},
        "at '/fullnameOverride': 'a.b' does not match",
    ),
    "no port, which would be every port": (
        REQUIRED | {"networkPolicy": {"apiServerPorts": []}},
        "/apiServerPorts': minItems",
    ),
    "a volume that is mounted in no way": (
        DATABASE
        | {
            "destination": "directory:/courses",
            "destinationVolume": {"create": True, "accessModes": []},
        },
        "/destinationVolume/accessModes': minItems",
    ),
    "an unknown value": (REQUIRED | {"replica": 2}, "additional properties 'replica' not allowed"),
    "an unknown value below": (REQUIRED | {"worker": {"resource": {}}}, "'resource' not allowed"),
    "an unknown part of a Job": (
        REQUIRED | {"worker": {"jobTemplate": {"template": {}}}},
        "'template' not allowed",
    ),
    "a word for a number": (REQUIRED | {"replicas": "two"}, "/replicas': got string, want integer"),
    "too small": (REQUIRED | {"maxConcurrentRuns": 0}, "/maxConcurrentRuns': minimum"),
    "a port that only root may open": (
        REQUIRED | {"operator": {"httpPort": 80}},
        "/operator/httpPort': minimum",
    ),
    "a tag that is a number": (
        REQUIRED | {"image": {"tag": 1.1}},
        "/image/tag': got number, want string",
    ),
    "a time without a unit we know": (REQUIRED | {"checkInterval": "10w"}, "/checkInterval'"),
    "a word that is no choice": (REQUIRED | {"logLevel": "loud"}, "value must be one of"),
    "a destination we cannot reach": (merged(REQUIRED, {"destination": "s3://x"}), "/destination'"),
    "a database we cannot speak to": (
        {"destination": "drive:x", "database": {"url": "postgres://u@h/n"}},
        "/database/url'",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_is_refused_with_a_message_that_names_it(tmp_path: Path, what: str) -> None:
    values, message = WRONG[what]

    assert message in refusal(tmp_path, values)


def test_a_release_that_begins_with_a_digit_needs_a_name_for_its_installation(
    tmp_path: Path,
) -> None:
    assert "must begin with a letter: set installation" in refusal(tmp_path, REQUIRED, "1st")
