"""Commands as processes on the emulator: killed and stopped workers, doctor, user login."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.drive_emulator import DriveEmulator
from tests.drive_emulator.store import FOLDER, Refused
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture

CHUNK = 256 * 1024
SIZE = 2_000_000


def environment(drive: DriveEmulator, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    return others | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "COLUMNS": "300",
        "ENROLLGATE_DESTINATION": f"drive:{drive.store.root}",
        "ENROLLGATE_COURSE_INDEX": "false",
        "ENROLLGATE_DRIVE_ENDPOINT": drive.url,
        "ENROLLGATE_DRIVE_CREDENTIALS": str(tmp_path / "login.json"),
        "ENROLLGATE_DRIVE_CHUNK_SIZE": "256KiB",
        "ENROLLGATE_WORK_DIR": str(tmp_path / "work"),
        "ENROLLGATE_DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}",
    }


def test_worker_killed_during_uploads_leaves_each_file_once(
    tmp_path: Path,
) -> None:
    lectures = [Lecture(f"L{n}", lecture(SIZE, n)) for n in range(1, 4)]
    with DriveEmulator() as drive, FaultySite(lectures) as site:
        order = {
            "ENROLLGATE_TASK_ID": "7",
            "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
            "ENROLLGATE_ALLOWED_HOSTS": site.host,
            "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
            "ENROLLGATE_REPORT_PATH": str(tmp_path / "report.json"),
        }
        worker: subprocess.Popen[bytes] | None = None
        chunks, kill_at, started = 0, 0, threading.Event()

        def on_chunk() -> None:
            nonlocal chunks
            chunks += 1
            if chunks == kill_at:
                started.wait(10)
                assert worker is not None
                worker.send_signal(signal.SIGKILL)

        drive.on_chunk = on_chunk
        codes = []
        for kill_at in (3, 8, 12, 17, 0):  # noqa: B007 -- on_chunk reads it
            started.clear()
            worker = subprocess.Popen(
                [sys.executable, "-m", "enrollgate", "work"],
                env=environment(drive, tmp_path) | order,
                stderr=subprocess.DEVNULL,
            )
            started.set()
            codes.append(worker.wait(60))
        assert codes == [-9, -9, -9, -9, 0]
        files = drive.store.media()
        assert sorted(str(file["name"]) for file in files) == [
            f"0{n} - L{n}.mp4" for n in range(1, 4)
        ]
        assert drive.store.bytes <= 3 * SIZE + 4 * CHUNK, "each kill costs at most one chunk"
        assert sum(file["mimeType"] == FOLDER for file in drive.store.files.values()) == 2
        report = (tmp_path / "report.json").read_text()
        assert "upload_id" not in report and json.loads(report)["reason"] is None


def test_sigterm_in_a_chunk_stops_and_next_attempt_continues(
    tmp_path: Path,
) -> None:
    file_size = 14_000_000
    with (
        DriveEmulator(rate=1_000_000) as drive,
        FaultySite([Lecture("L", lecture(file_size))]) as site,
    ):
        order = environment(drive, tmp_path) | {
            "ENROLLGATE_DRIVE_CHUNK_SIZE": "8MiB",
            "ENROLLGATE_TASK_ID": "7",
            "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
            "ENROLLGATE_ALLOWED_HOSTS": site.host,
            "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
            "ENROLLGATE_REPORT_PATH": str(tmp_path / "report.json"),
        }
        command = [sys.executable, "-m", "enrollgate", "work"]
        worker = subprocess.Popen(command, env=order, stderr=subprocess.DEVNULL)
        arrived, halfway = 0, threading.Event()

        def count(size: int) -> None:
            nonlocal arrived
            arrived += size
            if arrived > 3_000_000:
                halfway.set()

        drive.on_bytes = count
        assert halfway.wait(120)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 75
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["reason"] == "Stopped" and report["destination_id"], (
            "the report is the worker's own"
        )
        drive.rate = 0
        assert (
            subprocess.run(command, env=order, stderr=subprocess.DEVNULL, check=False).returncode
            == 0
        )
        (file,) = drive.store.media()
        assert file["size"] == str(file_size) and drive.received <= file_size + 2 * CHUNK


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            None,
            "ok      destination: Google Drive folder rootfolder0001: "
            "a probe file was written, verified and moved to the trash",
        ),
        ("storage", "a service account has no storage of its own"),
        ("login", "enrollgate drive login"),
    ],
)
def test_doctor_proves_access_or_reports_the_problem(
    tmp_path: Path, broken: str | None, words: str
) -> None:
    with DriveEmulator() as drive:
        if broken == "storage":
            drive.store.refuse = Refused(
                403, "storageQuotaExceeded", "Service Accounts do not have storage quota."
            )
        if broken == "login":
            drive.token_refusal = "invalid_grant"
        done = subprocess.run(
            [sys.executable, "-m", "enrollgate", "doctor"],
            env=environment(drive, tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert words in done.stdout and "TOPSECRET" not in done.stdout + done.stderr, done
        assert drive.store.media() == []


@contextmanager
def logging_in(
    drive: DriveEmulator, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start the command and yield it with the query of the URL that it prints."""
    client = {
        "client_id": "client",
        "client_secret": "TOPSECRET-client",
        "auth_uri": drive.url + "auth",
        "token_uri": drive.url + "token",
        "redirect_uris": ["http://localhost"],
    }
    secrets, output = tmp_path / "client.json", tmp_path / "login.json"
    secrets.write_text(json.dumps({"installed": client}))
    command = [
        sys.executable,
        "-u",
        "-m",
        "enrollgate",
        "drive",
        "login",
        "--client-secrets",
        str(secrets),
    ]
    login = subprocess.Popen(
        [*command, "--output", str(output)],
        env=environment(drive, tmp_path) | {"OAUTHLIB_INSECURE_TRANSPORT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with login:
        assert login.stdout is not None
        url = next(
            line.strip() for line in login.stdout if re.match("http://127.0.0.1:[0-9]+/auth", line)
        )
        yield login, {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_user_logs_in_without_a_browser_on_the_machine(tmp_path: Path) -> None:
    with DriveEmulator() as drive, logging_in(drive, tmp_path) as (login, query):
        assert query["scope"] == "https://www.googleapis.com/auth/drive"
        with urllib.request.urlopen(
            f"{query['redirect_uri']}?code=abc&state={query['state']}"
        ) as page:
            assert b"close this page" in page.read()
        out, _ = login.communicate(timeout=60)
        assert login.returncode == 0 and "TOPSECRET" not in out
    output = tmp_path / "login.json"
    written = json.loads(output.read_text())
    assert (written["type"], written["refresh_token"]) == ("authorized_user", "TOPSECRET-refresh")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("answer", "refusal", "words"),
    [
        (
            "error=access_denied",
            None,
            "Google gave no login (access_denied): log in again and agree",
        ),
        (
            "code=abc",
            "invalid_client",
            "Google gave no login (invalid_client): log in again and agree",
        ),
        (
            "code=abc",
            "scope",
            "the login does not include access to Google Drive: log in again and agree to it",
        ),
    ],
)
def test_refused_login_is_reported_in_one_sentence(
    tmp_path: Path, answer: str, refusal: str | None, words: str
) -> None:
    with DriveEmulator() as drive, logging_in(drive, tmp_path) as (login, query):
        drive.token_scope = (
            "https://www.googleapis.com/auth/drive.file" if refusal == "scope" else None
        )
        drive.token_refusal = None if refusal == "scope" else refusal
        with urllib.request.urlopen(f"{query['redirect_uri']}?{answer}&state={query['state']}"):
            pass
        _, err = login.communicate(timeout=60)
    assert (
        login.returncode == 1 and words in err and "Traceback" not in err and "TOPSECRET" not in err
    )


def test_file_that_is_no_oauth_client_is_refused(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_text("{}")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "enrollgate",
            "drive",
            "login",
            "--client-secrets",
            str(tmp_path / "client.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "is not the JSON of an OAuth client" in done.stderr
