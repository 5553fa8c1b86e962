"""The destination `drive:` against the emulator: real HTTP, the real client, nothing replaced but the pauses."""

import base64
import hashlib
import json
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.drive_emulator import DriveEmulator, Fault, Faults, Store
from tests.drive_emulator.store import FOLDER
from tests.faulty_site import FaultySite, Lecture, content
from tests.orders import order_for

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Item
from enrollgate.worker.destinations.drive import Drive, open_drive
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.identity import course_key

KIB, MIB = 1024, 1024 * 1024
CHUNK = 256 * KIB
COURSE_URL = "https://courses.example.com/course/1"
PROPERTIES = {"enrollgateTask": "7", "enrollgateCourse": course_key(COURSE_URL)}


class Pauses:
    """Sleeps that take no time, and are remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float, _stop: threading.Event) -> None:
        self.seconds.append(seconds)


class Bench:
    """A destination on an emulator, and files to send."""

    def __init__(self, emulator: DriveEmulator, tmp_path: Path) -> None:
        self.emulator, self.folder = emulator, tmp_path
        self.pauses = Pauses()
        self.stop = threading.Event()
        self.key_file = tmp_path / "login.json"
        self.key_file.write_text(json.dumps(emulator.user_login()))
        self.credentials: Path | None = self.key_file
        self.subject: str | None = None
        self.course_url = COURSE_URL
        self.chunk = CHUNK
        self.socket_timeout = SOCKET_TIMEOUT

    def drive(self, root: str | None = None) -> Drive:
        with FaultySite([]) as site:
            order = order_for(
                site,
                self.folder,
                course_url=self.course_url,
                drive_endpoint=self.emulator.url,
                drive_credentials=self.credentials,
                drive_subject=self.subject,
                drive_chunk_size=self.chunk,
            )
        return open_drive(
            order,
            root or self.emulator.store.root,
            self.stop,
            RetryPolicy(Random(1), self.pauses),
            self.socket_timeout,
        )

    def opened(self) -> Drive:
        drive = self.drive()
        drive.open("A course")
        return drive

    def file(self, size: int, seed: int = 1) -> Path:
        path = self.folder / f"{seed}.mp4"
        path.write_bytes(content(size, seed))
        return path

    def send(self, drive: Drive, size: int = 600 * KIB, number: int = 1) -> list[int]:
        told: list[int] = []
        file = self.file(size, number)
        done = drive.deliver(item(number), file, told.append)
        assert (done.size, done.md5) == (size, hashlib.md5(file.read_bytes()).hexdigest())
        assert told == sorted(told)
        return told

    def only_file(self) -> dict[str, object]:
        (file,) = self.emulator.store.media()
        return file


def item(number: int, section: str = "", title: str | None = None) -> Item:
    return Item(
        f"i{number}",
        number,
        title or f"Lecture {number}",
        section,
        1 if section else 0,
        "https://x.example",
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with DriveEmulator() as emulator:
        yield Bench(emulator, tmp_path)


def test_a_course_has_its_folder_its_sections_and_its_items_in_order(bench: Bench) -> None:
    drive = bench.opened()
    drive.deliver(item(1, "Start"), bench.file(10), lambda _n: None)
    drive.deliver(item(2, "Start"), bench.file(0), lambda _n: None)
    files = {file["id"]: file for file in bench.emulator.store.files.values()}
    course = files[drive.location[0]]
    assert course["name"] == "A course [task-7]" and course["appProperties"] == PROPERTIES
    assert drive.location[1].endswith(str(course["id"]))
    first, second = bench.emulator.store.media()
    assert [first["name"], second["name"]] == ["01 - Lecture 1.mp4", "02 - Lecture 2.mp4"]
    assert files[first["parents"][0]]["name"] == "01 - Start" and files[first["parents"][0]][
        "parents"
    ] == [course["id"]]
    assert second["size"] == "0"


def test_another_try_finds_all_that_is_whole_and_no_second_folder_is_made(bench: Bench) -> None:
    drive = bench.opened()
    for number in range(1, 131):
        drive.deliver(
            item(number, "Start" if number % 2 else ""),
            bench.file(3, number),
            lambda _n: None,
        )
    again = bench.opened()
    assert (
        all(again.find(item(number)) for number in range(1, 131)) and again.find(item(131)) is None
    )
    assert sum(file["mimeType"] == FOLDER for file in bench.emulator.store.files.values()) == 3


def test_a_corrected_course_url_is_another_course_and_a_new_signature_is_not(bench: Bench) -> None:
    bench.course_url = "https://a.example/1.mp4?token=old&id=3"
    first = bench.opened()
    bench.send(first)
    bench.course_url = "https://a.example/1.mp4?token=new&id=3"
    again = bench.opened()
    assert again.location == first.location and again.find(item(1)) is not None
    bench.course_url = "https://b.example/1.mp4?token=new&id=3"
    corrected = bench.opened()
    assert corrected.location != first.location and corrected.find(item(1)) is None


def test_a_file_that_was_changed_is_not_there_and_is_replaced(bench: Bench) -> None:
    bench.send(bench.opened())
    bench.only_file()["md5Checksum"] = "f" * 32
    again = bench.opened()
    assert again.find(item(1)) is None
    bench.send(again)
    bench.only_file()


def test_two_items_of_one_name_both_arrive(bench: Bench) -> None:
    drive = bench.opened()
    with ThreadPoolExecutor(8) as pool:
        items = [Item(f"x{n}", 1, "Same", "Start", 1, "u") for n in range(20)]
        list(
            pool.map(
                lambda i: drive.deliver(i, bench.file(9, int(i.item_id[1:])), lambda _n: None),
                items,
            )
        )
    assert len({file["name"] for file in bench.emulator.store.media()}) == 20


def test_of_two_folders_of_one_task_the_oldest_is_used(bench: Bench) -> None:
    store = bench.emulator.store
    body = {"name": "A course [task-7]", "mimeType": FOLDER, "parents": [store.root]}
    ours = {**body, "appProperties": PROPERTIES}
    oldest = store.insert({**ours, "id": "zzz"}, ours=True)
    store.insert({**ours, "id": "aaa"}, ours=True)
    assert bench.opened().location[0] == oldest["id"]


def test_shared_drives_are_served(tmp_path: Path) -> None:
    with DriveEmulator(Store(shared_drive=True)) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.send(bench.opened())
        assert bench.opened().find(item(1)) is not None


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("session", Fault(status=503)),
        ("session", Fault("lost")),
        ("chunk", Fault(status=500)),
        ("chunk", Fault(status=429, reason="rateLimitExceeded")),
        ("chunk", Fault(status=403, reason="userRateLimitExceeded")),
        ("chunk", Fault(status=403, reason="rateLimitExceeded")),
        ("chunk", Fault("cut")),
        ("chunk", Fault("partial")),
        ("chunk", Fault("nothing_kept")),
        ("chunk", Fault("truncated")),
        ("chunk", Fault(status=404, reason="notFound")),
        ("chunk", Fault(status=410, reason="gone")),
        ("chunk", Fault("lost")),
        ("generateIds", Fault(status=502)),
        ("create", Fault("lost")),
        ("list", Fault("truncated")),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_what_passes_is_waited_for_and_leaves_one_file(
    bench: Bench, operation: str, fault: Fault, times: int
) -> None:
    bench.chunk = MIB
    bench.emulator.faults.script(operation, *[fault] * times)
    bench.send(bench.opened(), size=3 * MIB)
    bench.only_file()
    assert len(bench.emulator.faults.happened) == times
    if fault.kind in ("partial", "cut"):
        assert f"bytes=0-{MIB // 2 - 1}" in bench.emulator.ranges, (
            "half of the chunk was kept, and Drive said so"
        )
        assert bench.emulator.store.bytes == 3 * MIB, "and not sent again"


@pytest.mark.parametrize("kind", ["lost", "truncated", "page"])
def test_a_lost_last_answer_never_makes_a_second_file(bench: Bench, kind: str) -> None:
    drive = bench.opened()
    bench.emulator.faults.script("chunk", Fault(kind))
    bench.send(drive, size=1000)
    bench.emulator.faults.script("chunk", Fault("lost"))
    bench.emulator.faults.script("probe", Fault(status=410, reason="gone"))
    bench.send(drive, size=1000, number=2)
    assert len(bench.emulator.store.media()) == 2


def test_retry_after_is_honoured_and_pauses_grow(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.faults.script(
        "session", Fault(status=429, reason="rateLimitExceeded", headers={"Retry-After": "77"})
    )
    bench.send(drive)
    assert bench.pauses.seconds == [77.0]
    bench.emulator.faults.script("session", *[Fault(status=503)] * 6)
    bench.send(drive, number=2)
    first, *_, last = bench.pauses.seconds[1:]
    assert len(bench.pauses.seconds) == 7 and first <= 1 and 16 <= last <= 32


def test_a_corrupt_upload_is_removed_and_sent_again(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.faults.script("chunk", Fault("corrupt"))
    bench.send(drive, size=1000)
    bench.only_file()
    bench.emulator.faults.script("chunk", *[Fault("corrupt")] * 3)
    with pytest.raises(Failure, match="CorruptUpload"):
        bench.send(drive, size=1000, number=2)
    bench.only_file()


def test_a_stopped_upload_goes_on_in_the_next_try_where_it_was(bench: Bench) -> None:
    drive = bench.opened()
    file = bench.file(5 * CHUNK)

    def stop_halfway(sent: int) -> None:
        if sent >= 2 * CHUNK:
            bench.stop.set()

    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), file, stop_halfway)
    (kept,) = (bench.folder / "scratch" / "drive").glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and "upload_id" in kept.read_text()
    bench.stop.clear()
    told = bench.send(bench.opened(), size=5 * CHUNK)
    assert told[-1] < 4 * CHUNK, "it began where the first try had stopped"
    assert bench.emulator.store.bytes == 5 * CHUNK
    bench.only_file()
    assert "upload_id" not in kept.read_text()


def test_a_kept_session_that_has_expired_is_begun_anew(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.on_chunk = bench.stop.set
    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(item(1), bench.file(5 * CHUNK), lambda _n: None)
    for upload in bench.emulator.store.uploads.values():
        upload.gone = True
    bench.emulator.on_chunk = lambda: None
    bench.stop.clear()
    bench.send(bench.opened(), size=5 * CHUNK)
    bench.only_file()


def test_a_service_account_asks_for_its_token_with_or_without_a_subject(bench: Bench) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "client_email": "robot@school.example",
        "private_key": pem,
        "token_uri": bench.emulator.url + "token",
    }
    bench.key_file.write_text(json.dumps(account))
    for subject in (None, "teacher@school.example"):
        bench.subject = subject
        bench.opened()
        form = bench.emulator.token_requests[-1]
        claims = form["assertion"].split(".")[1]
        assert json.loads(base64.urlsafe_b64decode(claims + "==")).get("sub") == subject


def test_a_workload_s_own_identity_is_used_where_no_credentials_are_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity federation: the pod's own token is exchanged for one of Google's."""
    (bench.folder / "pod-token").write_text("TOPSECRET-of-the-pod")
    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workloadIdentityPools/pool/providers/cluster",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": bench.emulator.url + "token",
        "credential_source": {"file": str(bench.folder / "pod-token")},
    }
    (bench.folder / "federation.json").write_text(json.dumps(federation))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bench.folder / "federation.json"))
    bench.credentials = None
    bench.send(bench.opened())
    bench.only_file()
    (form,) = bench.emulator.token_requests
    assert form["subject_token"] == "TOPSECRET-of-the-pod"
    assert form["scope"] == "https://www.googleapis.com/auth/drive"


def test_no_identity_at_all_is_a_wrong_setting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bench.folder / "nothing.json"))
    bench.credentials = None
    with pytest.raises(
        Failure, match="ConfigurationError: no Google credentials: set ENROLLGATE_DRIVE_CREDENTIALS"
    ):
        bench.drive()
    bench.subject = "teacher@school.example"
    with pytest.raises(Failure, match="ENROLLGATE_DRIVE_SUBJECT needs a service account's key"):
        bench.drive()


def test_a_revoked_login_says_so_and_tells_no_secret(bench: Bench) -> None:
    bench.emulator.token_refusal = "invalid_grant"
    with pytest.raises(Failure) as caught:
        bench.opened()
    assert caught.value.reason is Reason.DESTINATION_AUTH and "revoked" in caught.value.message
    assert "TOPSECRET" not in caught.value.message


def test_an_expired_token_is_renewed_once_and_the_upload_goes_on(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.tokens = {"better"}
    bench.send(drive)
    assert len(bench.emulator.token_requests) == 2


def test_a_token_that_expires_in_the_middle_of_a_file_costs_that_chunk_only(bench: Bench) -> None:
    drive = bench.opened()
    bench.emulator.on_chunk = lambda: bench.emulator.tokens.__init__(["better"])  # type: ignore[misc]
    told = bench.send(drive, size=4 * CHUNK)
    assert told[-1] == 5 * CHUNK, "one chunk was sent twice, whole"
    assert bench.emulator.store.bytes == 4 * CHUNK and len(bench.emulator.token_requests) == 2
    assert bench.pauses.seconds == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "is no JSON"),
        ('{"type": "x"}', "neither a service account's key nor a user's login"),
        ('{"type": "authorized_user"}', "lacks a field"),
        ('{"type": "service_account", "private_key": "TOPSECRET"}', "damaged or lacks a field"),
    ],
)
def test_bad_credentials_are_named_by_their_file(
    bench: Bench, text: str | None, words: str
) -> None:
    bench.key_file.unlink() if text is None else bench.key_file.write_text(text)
    with pytest.raises(Failure) as caught:
        bench.drive()
    assert caught.value.reason is Reason.CONFIGURATION_ERROR and words in caught.value.message
    assert "login.json" in caught.value.message and "TOPSECRET" not in caught.value.message


def test_three_hundred_uploads_with_a_fifth_of_all_answers_faulty_arrive_once_each(
    tmp_path: Path,
) -> None:
    with DriveEmulator(faults=Faults(0.2, seed=4)) as emulator:
        bench = Bench(emulator, tmp_path)
        drive = bench.opened()
        bench.file(300_000, 1)
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda n: drive.deliver(item(n), bench.folder / "1.mp4", lambda _n: None),
                    range(1, 301),
                )
            )
        files = emulator.store.media()
        assert len({file["name"] for file in files}) == len(files) == 300
        assert {file["md5Checksum"] for file in files} == {
            hashlib.md5(content(300_000, 1)).hexdigest()
        }
        assert len(emulator.faults.happened) > 100


def test_a_whole_run_reports_the_folder_and_a_second_one_skips_all(tmp_path: Path) -> None:
    from enrollgate.worker import work

    with (
        DriveEmulator() as emulator,
        FaultySite([Lecture(f"L{n}", content(70_000, n)) for n in range(3)]) as site,
    ):
        bench = Bench(emulator, tmp_path)
        order = order_for(
            site,
            tmp_path,
            destination=f"drive:{emulator.store.root}",
            drive_endpoint=emulator.url,
            drive_credentials=bench.key_file,
            drive_chunk_size=CHUNK,
        )
        report = work(order, stop=threading.Event())
        assert (report.reason, report.items_delivered) == (None, 3)
        assert report.destination_url.startswith("https://drive.google.com/drive/folders/")
        again = work(order, stop=threading.Event())
        assert (again.reason, again.items_skipped, again.destination_id) == (
            None,
            3,
            report.destination_id,
        )
