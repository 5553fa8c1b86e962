"""Settings: what is accepted, what is refused, and with which message."""

import os
from pathlib import Path

import pytest
import typer

from enrollgate.commands import cli
from enrollgate.domain.destination import DirectoryDestination
from enrollgate.domain.order import RunOrder
from enrollgate.settings.loading import (
    RUN_VARIABLES,
    SettingsError,
    load_settings,
    variables,
)
from enrollgate.settings.operator import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ENROLLGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"ENROLLGATE_{name}", value)
    return load_settings()


def refusal(monkeypatch: pytest.MonkeyPatch, **values: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **values)
    return str(caught.value)


def test_the_defaults_are_those_of_the_contract(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load(monkeypatch)
    assert (settings.enrollment_timeout, settings.check_interval, settings.max_attempts) == (
        300,
        10,
        3,
    )
    assert settings.statuses().waiting == ("pending", "paid", "processing")
    assert settings.task_columns().table == "download_tasks"
    assert settings.sqlalchemy_url().database == str(settings.work_dir / "enrollgate.db")
    assert settings.destination == DirectoryDestination(tmp_path / "downloads")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "IMAGE",
            "my image",
            "ENROLLGATE_KUBERNETES__IMAGE=my image: write an image reference without spaces",
        ),
        ("NAMESPACE", "Courses!", "ENROLLGATE_KUBERNETES__NAMESPACE=Courses!"),
        (
            "CREATE_CONCURRENCY",
            "0",
            "ENROLLGATE_KUBERNETES__CREATE_CONCURRENCY=0: it should be greater than or equal to 1",
        ),
        ("LEASE_DURATION", "1d", "it should be less than or equal to 3600"),
        ("IMAGE_PULL_POLICY", "Sometimes", "it should be 'Always', 'IfNotPresent' or 'Never'"),
        (
            "START_TIMEOUT",
            "soon",
            "ENROLLGATE_KUBERNETES__START_TIMEOUT=soon: it should be a valid number",
        ),
        (
            "SCRATCH_VOLUME",
            "1GiB",
            "SCRATCH_VOLUME must be more than ENROLLGATE_SCRATCH_LIMIT: "
            "otherwise workers are evicted",
        ),
        (
            "DESTINATION_CLAIM",
            "courses",
            "but ENROLLGATE_DESTINATION is not a directory: remove one of them",
        ),
        ("IMAGEE", "x", "there is no such setting; did you mean ENROLLGATE_KUBERNETES__IMAGE?"),
    ],
)
def test_a_wrong_cluster_setting_is_refused_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    good = {
        "LAUNCHER": "kubernetes",
        "DATABASE_URL": "mysql://u:p@db/courses",
        "KUBERNETES__IMAGE": "enrollgate:1",
        "DESTINATION": "drive:0123456789abcdef",
    }
    assert load(monkeypatch, **good).kubernetes.image == "enrollgate:1"
    assert expected in refusal(monkeypatch, **good | {f"KUBERNETES__{name}": value})


def test_a_cluster_needs_an_image_and_a_database_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs ENROLLGATE_KUBERNETES__IMAGE: set it to the image of the workers" in refusal(
        monkeypatch, LAUNCHER="kubernetes"
    )
    assert "needs a database server" in refusal(
        monkeypatch, LAUNCHER="kubernetes", KUBERNETES__IMAGE="enrollgate:1"
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_a_duration_is_seconds_or_has_a_unit(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    assert load(monkeypatch, ENROLLMENT_TIMEOUT=text).enrollment_timeout == seconds


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CHECK_INTERVAL", "soon", "ENROLLGATE_CHECK_INTERVAL=soon: it should be a valid number"),
        ("CHECK_INTERVAL", "0", "ENROLLGATE_CHECK_INTERVAL=0: it should be greater than 0"),
        ("CHECK_INTERVAL", "inf", "ENROLLGATE_CHECK_INTERVAL=inf: it should be a finite number"),
        (
            "MAX_CONCURRENT_RUNS",
            "0",
            "ENROLLGATE_MAX_CONCURRENT_RUNS=0: it should be greater than or equal to 1",
        ),
        ("LAUNCHER", "docker", "ENROLLGATE_LAUNCHER=docker: it should be 'local' or 'kubernetes'"),
        (
            "DATABASE_URL",
            "nonsense",
            "ENROLLGATE_DATABASE_URL=***: it is not a database URL: write mysql://",
        ),
        (
            "DATABASE_URL",
            "postgres://u:p@h/d",
            "'postgres' is not supported: use mysql:// or sqlite:///",
        ),
        ("DATABASE_URL", "mysql://u:p@h", "it names no host or no database"),
        ("DATABASE_URL", "sqlite://", "it names no file"),
        (
            "DATABASE__PORT",
            "99999",
            "ENROLLGATE_DATABASE__PORT=99999: it should be less than or equal to 65535",
        ),
        ("DATABASE__HOST", "db", "ENROLLGATE_DATABASE__HOST needs ENROLLGATE_DATABASE__USER"),
        ("ALLOWED_HOSTS", "https://a.example/x", "'https://a.example/x' is not a host"),
        ("ALLOWED_HOSTS", "a.example:99999", "'a.example:99999' has no valid port"),
        ("ALLOWED_HOSTS", "*.*.example", "'*.*.example' is not a host"),
        ("DESTINATION", "drive:abc", "ENROLLGATE_DESTINATION=drive:abc: write drive:<folder id>"),
        ("DRIVE_CHUNK_SIZE", "1MB", "write a multiple of 256KiB"),
        ("DRIVE_CHUNK_SIZE", "1GiB", "write a multiple of 256KiB, 256MiB at most"),
        (
            "DRIVE_ENDPOINT",
            "ftp://x",
            "ENROLLGATE_DRIVE_ENDPOINT=ftp://x: write an http:// or https:// URL",
        ),
        (
            "DESTINATION",
            "/just/a/path",
            "ENROLLGATE_DESTINATION=/just/a/path: write directory:/path",
        ),
        ("TASK_TABLE", "tasks; DROP TABLE x", "write a table name"),
        ("STATUS_COLUMN", "a b", "write a column name"),
        ("STATUS_WAITING", "paid,Enrolled", "the status 'enrolled' has two meanings"),
        ("STATUS_WAITING", "", "ENROLLGATE_STATUS_WAITING is empty"),
        ("STATUS_FAILED", "x" * 65, "must have 1 to 64 characters"),
        (
            "DOWNLOADER",
            "command",
            "ENROLLGATE_DOWNLOADER=command needs ENROLLGATE_DOWNLOAD_COMMAND",
        ),
        ("DOWNLOAD_COMMAND", "get {course_url}", "is set but unused"),
        ("SCRATCH_LIMIT", "big", "ENROLLGATE_SCRATCH_LIMIT=big: could not parse"),
        ("INSTALLATION", "Not_A_Label", "write a DNS label of at most 32 characters"),
        (
            "DATABSE_URL",
            "x",
            "ENROLLGATE_DATABSE_URL: there is no such setting; did you mean "
            "ENROLLGATE_DATABASE_URL?",
        ),
        (
            "DATABASE__USER",
            "u",
            "ENROLLGATE_DATABASE__USER has no effect without "
            "ENROLLGATE_DATABASE__HOST: set that, or remove it",
        ),
        (
            "DATABASE__TLS_CA",
            "/ca.pem",
            "ENROLLGATE_DATABASE__TLS_CA has no effect on SQLite: name a database server",
        ),
        ("DATABASE__HOST", "", "ENROLLGATE_DATABASE__HOST=: it should have at least 1 character"),
        (
            "PROXY",
            "x",
            "ENROLLGATE_PROXY: there is no such setting: remove it; "
            "docs/settings.md lists all settings",
        ),
        (
            "MAX_ATEMPTS",
            "7",
            "ENROLLGATE_MAX_ATEMPTS: there is no such setting; did you mean "
            "ENROLLGATE_MAX_ATTEMPTS?",
        ),
        ("SECRETS_DIR", "/nowhere", "ENROLLGATE_SECRETS_DIR=/nowhere: there is no such folder"),
        ("CONFIG_FILE", "/nowhere", "ENROLLGATE_CONFIG_FILE=/nowhere: there is no such file"),
        ("ENROLLMENT_TIMEOUT", "999999999999", "ENROLLGATE_ENROLLMENT_TIMEOUT=999999999999"),
        ("ENROLLMENT_TIMEOUT", "999999999999", "it should be ten years (3650d) at most"),
        ("CHECK_INTERVAL", "99999999999", "ENROLLGATE_CHECK_INTERVAL=99999999999"),
        (
            "DATABASE",
            "foo",
            "ENROLLGATE_DATABASE: it is a group and has no value of its own: set "
            "its parts, such as ENROLL",
        ),
        (
            "DATABASE",
            '{"host": "db"}',
            "ENROLLGATE_DATABASE: it is a group and has no value of its own",
        ),
        ("KUBERNETES", "x", "ENROLLGATE_KUBERNETES: it is a group and has no value of its own"),
        (
            "DATABASE_URL",
            "mysql://u:p@h/d?foo=bar",
            "ENROLLGATE_DATABASE_URL=***: it has the option 'foo': remove it",
        ),
        ("DATABASE_URL", "mysql://u:p@h/d?ssl_ca=/x", "TLS is ENROLLGATE_DATABASE__TLS_CA"),
        ("DATABASE_URL", "sqlite:////x?foo=bar", "it has the option 'foo': remove it"),
        ("DATABASE_URL", "mysql://u:p@h:99999/d", "its port is 99999: write one from 1 to 65535"),
        (
            "COOKIES_DIR",
            "",
            "ENROLLGATE_COOKIES_DIR=: it is empty: write a path, or remove the variable",
        ),
        ("WORK_DIR", "", "ENROLLGATE_WORK_DIR=: it is empty"),
        ("WORK_DIR", "/var/\udcff", "its name is not UTF-8 text"),
        ("DRIVE_CREDENTIALS", "", "ENROLLGATE_DRIVE_CREDENTIALS=: it is empty"),
        ("LOCAL_MEMORY_LIMIT", "100MiB", "write 256MiB at least, or 0 for no limit"),
        ("DATABASE__TLS_CA", "", "ENROLLGATE_DATABASE__TLS_CA=: it is empty"),
        ("KUBERNETES__JOB_TEMPLATE", "", "ENROLLGATE_KUBERNETES__JOB_TEMPLATE=: it is empty"),
        (
            "WORK_DIR",
            "~no-such-user/x",
            "ENROLLGATE_WORK_DIR=~no-such-user/x: that user has no home folder here",
        ),
        ("DESTINATION", "directory:~no-such-user", "that user has no home folder here"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    message = refusal(monkeypatch, **{name: value})
    assert expected.lower() in message.lower(), message


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"HISTORY": "1h"}, True),
        ({"RUN_TTL": "181d"}, True),
        ({"HISTORY": "7199s", "RUN_TTL": "2h"}, True),
        ({"HISTORY": "2h", "RUN_TTL": "2h"}, False),
    ],
)
def test_a_history_shorter_than_the_ttl_of_runs_is_refused(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], refused: bool
) -> None:
    if not refused:
        load(monkeypatch, **values)
        return
    message = refusal(monkeypatch, **values)
    assert "Raise ENROLLGATE_HISTORY, or lower ENROLLGATE_RUN_TTL" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("get {course_url}", "does not contain {output_dir}"),
        ("get {output_dir}", "does not contain {course_url}"),
        ("get {course_url} {output_dir} {email}", "contains {email}"),
        ('["unclosed', "neither a command line nor a JSON array"),
    ],
)
def test_a_useless_download_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, expected: str
) -> None:
    assert expected in refusal(monkeypatch, DOWNLOADER="command", DOWNLOAD_COMMAND=command)


@pytest.mark.parametrize(
    "command",
    [
        "python3 main.py -c {course_url} -o {output_dir}",
        '["python3","main.py","-c","{course_url}","-o","{output_dir}"]',
    ],
)
def test_a_download_command_is_a_command_line_or_a_json_array(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    settings = load(monkeypatch, DOWNLOADER="command", DOWNLOAD_COMMAND=command)
    assert settings.download_command == (
        "python3",
        "main.py",
        "-c",
        "{course_url}",
        "-o",
        "{output_dir}",
    )


def test_all_problems_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, CHECK_INTERVAL="soon", LAUNCHER="x", NONSENSE="1")
    assert len(message.splitlines()) == 3


def test_a_database_url_and_a_host_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(
        monkeypatch,
        DATABASE_URL="mysql://u:p@h/d",
        DATABASE__HOST="h",
        DATABASE__USER="u",
        DATABASE__NAME="d",
    )
    assert "keep one" in message


def test_the_database_url_is_built_from_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        DATABASE__HOST="db",
        DATABASE__USER="u",
        DATABASE__PASSWORD="p@ss/word",
        DATABASE__NAME="courses",
    )
    url = settings.sqlalchemy_url()
    assert (url.drivername, url.password, url.host, url.port) == (
        "mysql+pymysql",
        "p@ss/word",
        "db",
        3306,
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", " \n"])
def test_spaces_and_newlines_around_secrets_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    """As `echo secret | base64` puts one at the end."""
    address = "mysql://u:secret@db/courses"
    settings = load(monkeypatch, DATABASE_URL=f" {address}{end}")
    assert settings.sqlalchemy_url().database == "courses"
    monkeypatch.delenv("ENROLLGATE_DATABASE_URL")
    parts = {"HOST": "db", "USER": "u", "PASSWORD": "secret", "NAME": "courses", "PORT": "3307"}
    settings = load(
        monkeypatch, **{f"DATABASE__{name}": f"{text}{end}" for name, text in parts.items()}
    )
    url = settings.sqlalchemy_url()
    found = (url.host, url.username, url.password, url.database, url.port)
    assert found == ("db", "u", "secret", "courses", 3307)
    for name in parts:
        monkeypatch.delenv(f"ENROLLGATE_DATABASE__{name}")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ENROLLGATE_DATABASE_URL").write_text(address + end)
    settings = load(monkeypatch, SECRETS_DIR=str(tmp_path / "secrets"))
    assert settings.sqlalchemy_url().password == "secret"


@pytest.mark.parametrize("name", ["order", "my-tasks", "Übersicht", "we`ird", "100%"])
def test_any_name_of_a_table_and_column_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = load(monkeypatch, TASK_TABLE=f"app.{name}", STATUS_COLUMN=name)
    assert (settings.task_table, settings.status_column) == (f"app.{name}", name)


def test_a_secret_file_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "ENROLLGATE_DATABASE__PASSWORD").write_text("from-the-secret\n")
    (secrets / "unrelated").write_text("x")
    settings = load(
        monkeypatch,
        SECRETS_DIR=str(secrets),
        DATABASE__HOST="db",
        DATABASE__USER="u",
        DATABASE__NAME="d",
        DATABASE__PASSWORD="from-the-environment",
    )
    assert settings.sqlalchemy_url().password == "from-the-secret"


def test_an_unreadable_secret_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ENROLLGATE_DATABASE_URL").write_bytes(b"\xff\xfe\x00")
    message = refusal(monkeypatch, SECRETS_DIR=str(tmp_path))
    assert "ENROLLGATE_DATABASE_URL" in message and "cannot be read" in message


def test_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "settings.env"
    path.write_text("ENROLLGATE_CHECK_INTERVAL=7\nENROLLGATE_MAX_ATTEMPTS=2\n")
    settings = load(monkeypatch, CONFIG_FILE=str(path), MAX_ATTEMPTS="5")
    assert (settings.check_interval, settings.max_attempts) == (7, 5)


def test_an_unknown_name_in_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "settings.env"
    path.write_text(
        "ENROLLGATE_CHECK_INTERVALL=7\nenrollgate_max_atempts=2\nPATH_OF_SOMETHING_ELSE=x\n"
    )
    lines = refusal(monkeypatch, CONFIG_FILE=str(path)).splitlines()
    assert lines == [
        f"ENROLLGATE_CHECK_INTERVALL in {path}: there is no such setting; did you "
        f"mean ENROLLGATE_CHECK_INTERVAL?",
        f"ENROLLGATE_MAX_ATEMPTS in {path}: there is no such setting; did you "
        f"mean ENROLLGATE_MAX_ATTEMPTS?",
    ]
    path.write_text("ENROLLGATE_SECRETS_DIR=/run/secrets\nENROLLGATE_DATABASE=foo\n")
    message = refusal(monkeypatch, CONFIG_FILE=str(path))
    assert (
        "it is read from the environment only: set it there" in message and "is a group" in message
    )


def test_an_unknown_name_in_the_secrets_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ENROLLGATE_DATABASE_PASSWORD").write_text("hunter2")
    (tmp_path / "..data").mkdir()
    (tmp_path / "credentials.json").write_text("{}")
    message = refusal(monkeypatch, SECRETS_DIR=str(tmp_path))
    assert "did you mean ENROLLGATE_DATABASE__PASSWORD?" in message and str(tmp_path) in message
    assert "hunter2" not in message and len(message.splitlines()) == 1


def test_a_file_that_is_not_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_bytes("ENROLLGATE_INSTALLATION=\xe4\n".encode("latin-1"))
    expected = f"ENROLLGATE_CONFIG_FILE={path}: it is not UTF-8 text: save it as UTF-8"
    assert refusal(monkeypatch, CONFIG_FILE=str(path)) == expected


def test_an_unknown_name_of_a_group_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, DATABASE__HOSTT="db", CHECK_INTERVAL="soon")
    assert message.count("HOSTT") == 1 and len(message.splitlines()) == 2


def test_an_internationalized_host_is_kept_in_its_ascii_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(monkeypatch, ALLOWED_HOSTS="Bücher.example:8443,*.bücher.example")
    assert settings.allowed_hosts == ("xn--bcher-kva.example:8443", "*.xn--bcher-kva.example")


def test_no_secret_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_URL="mysql://u:hunter2@h/d")
    assert "hunter2" not in repr(settings) + str(settings)
    assert "hunter2" not in refusal(monkeypatch, DATABASE_URL="mysql://u:hunter2@/")


def test_a_worker_s_environment_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, DATABASE_URL="mysql://u:hunter2@h/d", ALLOWED_HOSTS="a.example,*.b.example"
    )
    environment = settings.to_env()
    assert (
        "hunter2" not in str(environment)
        and environment["ENROLLGATE_ALLOWED_HOSTS"] == "a.example,*.b.example"
    )
    assert set(environment) <= set(variables())


def test_every_setting_is_described() -> None:
    assert all(
        field.description and field.description.endswith(".") for field in variables().values()
    )


def test_the_command_accepts_what_a_launcher_passes() -> None:
    options = typer.main.get_command(cli.app).commands["work"].params  # type: ignore[attr-defined]  # a group, to mypy any command
    assert {option.envvar for option in options if option.envvar} == RUN_VARIABLES
    assert (
        set(RunOrder("school-1-1", 1, 1, "https://a.example/x", "cookies.txt").variables())
        <= RUN_VARIABLES
    )


@pytest.mark.parametrize(
    ("user", "state", "work_dir"),
    [
        (0, "/state", "/var/lib/enrollgate"),
        (1000, "/state", "/state/enrollgate"),
        (1000, None, "/home/ada/.local/state/enrollgate"),
        (1000, "relative", "/home/ada/.local/state/enrollgate"),
    ],
)
def test_default_work_dir_is_the_same_wherever_the_operator_starts(
    monkeypatch: pytest.MonkeyPatch, user: int, state: str | None, work_dir: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if state is not None:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    assert load(monkeypatch).work_dir == Path(work_dir)


def test_relative_work_dir_and_sqlite_path_begin_at_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(monkeypatch, WORK_DIR="var", DATABASE_URL="sqlite:///tasks.db")
    assert settings.work_dir == tmp_path / "var"
    assert settings.sqlalchemy_url().database == str(tmp_path / "tasks.db")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter@2@db:3306/courses",
        "mysql://user@host:hunter2@db/courses",
        "mysql://u:hunter@2/x@db:3306/courses",
        "mysql://u:hunter2@x:9y@db/courses",
        "mysql://u/x:hunter2@db/courses",
        "mysql://u:hunter2%@db/courses",
        "mysql://u:%hunter2@db/courses",
    ],
)
def test_unencoded_password_is_explained_and_never_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", url)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert "write %40 for @" in str(refusal.value) and "__PASSWORD" in str(refusal.value)
    assert "hunter" not in str(refusal.value)


@pytest.mark.parametrize("url", ["mysql://u:hunter2@db:99x/courses", "mysql://u:hunter2/courses"])
def test_malformed_database_url_is_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", url)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert "hunter" not in str(refusal.value)


@pytest.mark.parametrize("password", ["p#s", "p:s", "p?a=b", "p[s]", "p+s", "p s", "p/s"])
def test_password_with_other_characters_is_taken_as_it_is(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", f"mysql://u:{password}@db/courses")
    assert load_settings().sqlalchemy_url().password == password


@pytest.mark.parametrize(("value", "shown"), [("::1", "::1"), ("*", "*"), ("0.0.0.0", "0.0.0.0")])
def test_http_address_is_an_ip_address_or_all(
    value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_HTTP_ADDRESS", value)
    assert load_settings().http_address == shown
    monkeypatch.setenv("ENROLLGATE_HTTP_ADDRESS", "localhost")
    with pytest.raises(SettingsError, match="write an IP address"):
        load_settings()


TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "good",
    [
        {"WEB__ADDRESS": "*", "WEB__TOKEN": TOKEN},
        {"WEB__ADDRESS": "192.0.2.1", "WEB__BEHIND_PROXY": "true"},
        {"WEB__ADDRESS": "::1"},
    ],
)
def test_a_page_that_is_protected_is_accepted(
    monkeypatch: pytest.MonkeyPatch, good: dict[str, str]
) -> None:
    assert load(monkeypatch, **good).web.address == good["WEB__ADDRESS"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"WEB__ADDRESS": "*"}, "set ENROLLGATE_WEB__TOKEN, or ENROLLGATE_WEB__BEHIND_PROXY=true"),
        ({"WEB__ADDRESS": "0.0.0.0"}, "would show the page to everyone"),
        ({"WEB__ADDRESS": "localhost"}, "write an IP address"),
        ({"WEB__TOKEN": TOKEN[:-1]}, "make one with `openssl rand -hex 16`"),
        ({"WEB__TOKEN": TOKEN, "WEB__BEHIND_PROXY": "true"}, "are both set: keep one"),
    ],
)
def test_a_page_open_to_everyone_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], expected: str
) -> None:
    message = refusal(monkeypatch, **wrong)
    assert expected in message and TOKEN[:-1] not in message
