"""Values that the chart rejects, and the message that names the value and the remedy."""

from pathlib import Path

import pytest
from tests.chart.rendering import REQUIRED, Json, error_message, merged


def _job(spec: Json) -> Json:
    return {"worker": {"jobTemplate": {"spec": spec}}}


def _container(part: Json) -> Json:
    return _job({"template": {"spec": {"containers": [{"name": "worker"} | part]}}})


DATABASE = {"database": {"existingSecret": "courses-database"}}
INVALID: dict[str, tuple[Json, str]] = {
    "rules without a way to know the operator": (
        merged(REQUIRED, {"prometheusRule": {"enabled": True}}),
        "prometheusRule.enabled needs the operator's metrics: set serviceMonitor.enabled",
    ),
    "no database": (
        {"destination": "drive:0AbCdEfGhIj"},
        "No database: set database.existingSecret",
    ),
    **{
        f"runs forgotten before their Jobs ({history}, {ttl})": (
            merged(REQUIRED, {"history": history, "runTTL": ttl}),
            "raise history, or lower runTTL",
        )
        for history, ttl in (("90m", "2h"), (3600, "1.5h"), ("1d", 86401), ("180d", 15552001))
    },
    "two databases": (
        merged(REQUIRED, {"database": {"url": "mysql://u:p@h/n"}}),
        "exclude each other",
    ),
    "a database host without a user": (
        {"destination": "drive:0AbCdEfGhIj", "database": {"host": "h"}},
        "database.host also needs database.user and database.name",
    ),
    **{
        f"a {part} beside a Secret": (
            merged(REQUIRED, {"database": {part: "x"}}),
            "need database.host, which is not set",
        )
        for part in ("user", "password", "name")
    },
    "a password beside a URL": (
        {
            "destination": "drive:0AbCdEfGhIj",
            "database": {"url": "mysql://u:p@h/n", "password": "p"},
        },
        "need database.host, which is not set",
    ),
    "form: parts without a Secret": (
        {
            "destination": "drive:0AbCdEfGhIj",
            "database": {"url": "mysql://u:p@h/n", "form": "parts"},
        },
        "database.form applies to database.existingSecret only",
    ),
    "no destination": (DATABASE, "No destination: set destination"),
    "a directory without a volume": (
        DATABASE | {"destination": "directory:/courses"},
        "destinationVolume.existingClaim",
    ),
    "a volume without a directory": (
        REQUIRED | {"destinationVolume": {"existingClaim": "c"}},
        "destination is not a directory",
    ),
    "a page without a reader": (
        merged(REQUIRED, {"web": {"enabled": True, "tokenSecret": "t"}}),
        "web.enabled needs web.databaseSecret",
    ),
    "a page for everyone": (
        merged(REQUIRED, {"web": {"enabled": True, "databaseSecret": "d"}}),
        "set web.tokenSecret, or web.behindProxy",
    ),
    "a page with a token and a proxy": (
        merged(
            REQUIRED,
            {
                "web": {
                    "enabled": True,
                    "databaseSecret": "d",
                    "tokenSecret": "t",
                    "behindProxy": True,
                }
            },
        ),
        "web.tokenSecret and web.behindProxy exclude each other",
    ),
    "two volumes": (
        DATABASE
        | {
            "destination": "directory:/c",
            "destinationVolume": {"existingClaim": "c", "create": True},
        },
        "destinationVolume.existingClaim and destinationVolume.create exclude each other",
    ),
    "drive settings for a directory": (
        DATABASE
        | {
            "destination": "directory:/c",
            "destinationVolume": {"create": True},
            "drive": {"existingSecret": "g"},
        },
        "drive is set, but destination is not a Drive folder",
    ),
    "two sources of cookies": (
        REQUIRED | {"cookies": {"existingSecret": "c", "files": {"cookies.txt": "x"}}},
        "cookies.existingSecret, cookies.dir and cookies.files exclude each other",
    ),
    "a cookies file with a wrong name": (
        REQUIRED | {"cookies": {"files": {"ada@example.com.txt": "x"}}},
        "'ada@example.com.txt' does not match pattern '^cookies",
    ),
    "two sources of credentials": (
        REQUIRED | {"drive": {"existingSecret": "g", "credentials": "{}"}},
        "drive.existingSecret, drive.credentialsFile and drive.credentials exclude each other",
    ),
    "a file name as credentials": (
        REQUIRED | {"drive": {"credentials": "key.json"}},
        "/drive/credentials'",
    ),
    "downloader command without a command": (
        REQUIRED | {"downloader": "command"},
        "downloader is `command`: set downloadCommand",
    ),
    "a command without downloader command": (
        REQUIRED | {"downloadCommand": ["wget"]},
        "downloadCommand is set but unused",
    ),
    "a Drive id that is too short": (
        merged(REQUIRED, {"destination": "drive:0AbCdEf"}),
        'destination: "drive:0AbCdEf" is no Drive folder: write drive:<folder id>',
    ),
    "a path as a Drive id": (
        merged(REQUIRED, {"destination": "drive:/my/courses/2026"}),
        'destination: "drive:/my/courses/2026" is no Drive folder',
    ),
    "the address of a Drive file": (
        merged(REQUIRED, {"destination": "https://drive.google.com/file/d/0AbCdEfGhIj/view"}),
        "is no Drive folder",
    ),
    "a registry for all charts": (
        REQUIRED | {"global": {"imageRegistry": "registry.example.com"}},
        "global.imageRegistry is set, but this chart uses no global values: remove it. For the "
        "image, set image.registry",
    ),
    "an unknown global value": (REQUIRED | {"global": {"x": 1}}, "global.x is set"),
    "the chart's own label for all objects": (
        REQUIRED | {"commonLabels": {"app.kubernetes.io/name": "x"}},
        "commonLabels sets the label app.kubernetes.io/name: remove it",
    ),
    "an enrollgate.io label for all objects": (
        REQUIRED | {"commonLabels": {"enrollgate.io/installation": "x"}},
        "commonLabels sets the label enrollgate.io/installation: remove it",
    ),
    "a hook annotation for all objects": (
        REQUIRED | {"commonAnnotations": {"helm.sh/hook": "post-install"}},
        "commonAnnotations sets helm.sh/hook: remove it",
    ),
    "two monitors": (
        REQUIRED | {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
        "serviceMonitor.enabled and podMonitor.enabled exclude each other",
    ),
    "a Secret and a folder of secrets": (
        merged(REQUIRED, {"database": {"secretsDir": "/mnt/secrets"}}),
        "exclude each other",
    ),
    "parts in a folder of secrets": (
        {
            "destination": "drive:0AbCdEfGhIj",
            "database": {"secretsDir": "/mnt/secrets", "form": "parts"},
        },
        "database.form applies to database.existingSecret only, but database.secretsDir is set",
    ),
    "a relative folder of secrets": (
        {"destination": "drive:0AbCdEfGhIj", "database": {"secretsDir": "secrets"}},
        "/database/secretsDir': 'secrets' does not match",
    ),
    "a cookies folder that no worker has": (
        REQUIRED | {"cookies": {"dir": "/mnt/cookies"}},
        "cookies.dir is set, but workers have no volume with it: mount one in worker.jobTemplate",
    ),
    "a page with a Secret and a folder": (
        merged(REQUIRED, {"web": {"enabled": True, "databaseSecret": "d", "secretsDir": "/s"}}),
        "web.databaseSecret and web.secretsDir exclude each other",
    ),
    "the migration's old switch": (
        REQUIRED | {"migration": {"enabled": False}},
        "/migration': additional properties 'enabled' not allowed",
    ),
    "an unknown way to migrate": (REQUIRED | {"migration": {"mode": "job"}}, "/migration/mode'"),
    "a digest without its algorithm": (
        REQUIRED | {"image": {"digest": "0123abcd"}},
        "/image/digest': '0123abcd' does not match",
    ),
    **{
        f"an unknown part of {path}": (
            merged(REQUIRED, values),
            f"additional properties '{wrong}' not allowed",
        )
        for path, wrong, values in (
            ("podSecurityContext", "runAsuser", {"podSecurityContext": {"runAsuser": 1}}),
            ("containerSecurityContext", "drop", {"containerSecurityContext": {"drop": []}}),
            ("dnsConfig", "nameserver", {"dnsConfig": {"nameserver": []}}),
            (
                "a host alias",
                "host",
                {"hostAliases": [{"ip": "::1", "hostnames": [], "host": "a"}]},
            ),
            ("a probe", "period", {"operator": {"livenessProbe": {"period": 3}}}),
            (
                "a variable",
                "valuefrom",
                {"operator": {"extraEnv": [{"name": "A", "valuefrom": {}}]}},
            ),
            ("a toleration", "kye", {"worker": {"tolerations": [{"kye": "a"}]}}),
            ("an affinity", "nodeaffinity", {"web": {"affinity": {"nodeaffinity": {}}}}),
            (
                "a mount",
                "path",
                {
                    "operator": {
                        "extraVolumeMounts": [{"name": "a", "mountPath": "/a", "path": "b"}]
                    }
                },
            ),
            ("the Job", "backofLimit", _job({"backofLimit": 1})),
            (
                "the Job's metadata",
                "label",
                {"worker": {"jobTemplate": {"metadata": {"label": {}}}}},
            ),
            ("the pod", "nodeSelectr", _job({"template": {"spec": {"nodeSelectr": {}}}})),
            ("the worker", "command_", _container({"command_": []})),
            ("the worker's variable", "val", _container({"env": [{"name": "A", "val": "b"}]})),
            (
                "a relabeling",
                "source_labels",
                {"podMonitor": {"relabelings": [{"source_labels": []}]}},
            ),
        )
    },
    "no service account": (
        REQUIRED | {"serviceAccount": {"create": False}},
        "set serviceAccount.name",
    ),
    "a token without a service account": (
        REQUIRED | {"worker": {"automountServiceAccountToken": True}},
        "needs worker.serviceAccountName",
    ),
    "one name for all Jobs": (
        REQUIRED | {"worker": {"jobTemplate": {"metadata": {"name": "x"}}}},
        "sets metadata.name: remove it",
    ),
    "another namespace for the Jobs": (
        REQUIRED | {"worker": {"jobTemplate": {"metadata": {"namespace": "x"}}}},
        "sets metadata.namespace: remove it",
    ),
    "an enrollgate.io label for workers": (
        REQUIRED | {"worker": {"labels": {"enrollgate.io/installation": "x"}}},
        "worker.labels sets the label enrollgate.io/installation: remove it",
    ),
    "an enrollgate.io label in the job template": (
        REQUIRED
        | {"worker": {"jobTemplate": {"metadata": {"labels": {"enrollgate.io/recorded": "true"}}}}},
        "worker.jobTemplate sets the label enrollgate.io/recorded",
    ),
    "an enrollgate.io label for the pods": (
        REQUIRED
        | {
            "worker": {
                "jobTemplate": {
                    "spec": {"template": {"metadata": {"labels": {"enrollgate.io/run": "9"}}}}
                }
            }
        },
        "worker.jobTemplate's pod sets the label enrollgate.io/run",
    ),
    "a name that begins with a digit": (
        REQUIRED | {"fullnameOverride": "1st"},
        "at '/fullnameOverride': '1st' does not match",
    ),
    "a name with a dot": (
        REQUIRED | {"fullnameOverride": "a.b"},
        "at '/fullnameOverride': 'a.b' does not match",
    ),
    "no port, which would allow every port": (
        REQUIRED | {"networkPolicy": {"apiServerPorts": []}},
        "/apiServerPorts': minItems",
    ),
    "a volume without access modes": (
        DATABASE
        | {
            "destination": "directory:/courses",
            "destinationVolume": {"create": True, "accessModes": []},
        },
        "/destinationVolume/accessModes': minItems",
    ),
    "an unknown value": (REQUIRED | {"replica": 2}, "additional properties 'replica' not allowed"),
    "an unknown nested value": (REQUIRED | {"worker": {"resource": {}}}, "'resource' not allowed"),
    "an unknown part of a Job": (
        REQUIRED | {"worker": {"jobTemplate": {"template": {}}}},
        "'template' not allowed",
    ),
    "a string for a number": (
        REQUIRED | {"replicas": "two"},
        "/replicas': got string, want integer",
    ),
    "a number below the minimum": (
        REQUIRED | {"maxConcurrentRuns": 0},
        "/maxConcurrentRuns': minimum",
    ),
    "a privileged port": (
        REQUIRED | {"operator": {"httpPort": 80}},
        "/operator/httpPort': minimum",
    ),
    "a tag that is a number": (
        REQUIRED | {"image": {"tag": 1.1}},
        "/image/tag': got number, want string",
    ),
    "a time with an unknown unit": (REQUIRED | {"checkInterval": "10w"}, "/checkInterval'"),
    "a value that is not in the enum": (REQUIRED | {"logLevel": "loud"}, "value must be one of"),
    **{
        f"{name} in Kubernetes' short form": (
            merged(REQUIRED, values),
            f'{name} is "20Mi": write the unit in full, 20MiB',
        )
        for name, values in {
            "worker.scratchVolume": {"worker": {"scratchVolume": "20Mi"}},
            "worker.scratchLimit": {"worker": {"scratchLimit": "20Mi"}},
            "worker.downloadRate": {"worker": {"downloadRate": "20Mi"}},
            "worker.uploadRate": {"worker": {"uploadRate": "20Mi"}},
            "worker.minDownloadRate": {"worker": {"minDownloadRate": "20Mi"}},
            "drive.chunkSize": {"drive": {"chunkSize": "20Mi"}},
        }.items()
    },
    **{
        f"a scratch volume of {volume} with a limit of {limit}": (
            merged(REQUIRED, {"worker": {"scratchVolume": volume, "scratchLimit": limit}}),
            f"worker.scratchVolume ({volume or '10GiB'}) must be more than worker.scratchLimit "
            f"({limit or '5GiB'}): raise it",
        )
        for volume, limit in (
            ("20MiB", ""),
            ("20MiB", "5GiB"),
            ("5GiB", "5GiB"),
            ("5GB", "5GiB"),
            (5368709120, "5GiB"),
            ("0.9 TiB", "1TB"),
            ("", "12GiB"),
            ("900k", 1000000),
        )
    },
    "a tiny scratch volume": (
        merged(REQUIRED, {"worker": {"scratchVolume": "1000KiB", "scratchLimit": "10kB"}}),
        "worker.scratchVolume (1000KiB) must be at least 1MiB",
    ),
    "an unsupported destination": (merged(REQUIRED, {"destination": "s3://x"}), "/destination'"),
    "an unsupported database": (
        {"destination": "drive:0AbCdEfGhIj", "database": {"url": "postgres://u@h/n"}},
        "/database/url'",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_values_are_rejected_with_a_message(tmp_path: Path, case: str) -> None:
    values, message = INVALID[case]

    assert message in error_message(tmp_path, values)


def test_release_that_begins_with_a_digit_needs_an_installation_name(tmp_path: Path) -> None:
    message = error_message(tmp_path, REQUIRED, "1st")

    assert "must begin with a letter: set installation" in message
