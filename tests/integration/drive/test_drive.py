"""The destination `drive:` on the emulator: folders, uploads, retries, credentials."""

import base64
import hashlib
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.drive_emulator import DriveEmulator, Fault, Faults, Store
from tests.drive_emulator.store import FOLDER
from tests.faulty_site import FaultySite, Lecture, content
from tests.integration.drive.bench import CHUNK, COURSE_URL, MIB, Bench, build_item, ignore_bytes
from tests.media import lecture

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Fetched, Item, Validators
from enrollgate.worker.identity import course_key
from enrollgate.worker.work import work

PROPERTIES = {"enrollgateTask": "7", "enrollgateCourse": course_key(COURSE_URL)}


def test_course_has_folder_sections_and_items_in_order(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.deliver(drive, 1, "Start")
    bench.deliver(drive, 2, "Start", size=0)
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


def test_next_attempt_finds_all_items_and_makes_no_second_folder(bench: Bench) -> None:
    drive = bench.open_drive()
    for number in range(1, 131):
        bench.deliver(drive, number, "Start" if number % 2 else "", size=3)
    again = bench.open_drive()
    assert (
        all(again.find(build_item(number)) for number in range(1, 131))
        and again.find(build_item(131)) is None
    )
    assert sum(file["mimeType"] == FOLDER for file in bench.emulator.store.files.values()) == 3


def test_corrected_course_url_is_a_new_course_but_new_signature_is_not(bench: Bench) -> None:
    bench.course_url = "https://a.example/1.mp4?md5=old&expires=1&id=3"
    first = bench.open_drive()
    bench.send(first)
    bench.course_url = "https://a.example/1.mp4?md5=new&expires=2&id=3"
    again = bench.open_drive()
    assert again.location == first.location and again.find(build_item(1)) is not None
    bench.course_url = "https://b.example/1.mp4?md5=new&expires=2&id=3"
    corrected = bench.open_drive()
    assert corrected.location != first.location and corrected.find(build_item(1)) is None


def test_changed_file_is_not_found_and_is_replaced(bench: Bench) -> None:
    bench.send(bench.open_drive())
    bench.only_file()["md5Checksum"] = "f" * 32
    again = bench.open_drive()
    assert again.find(build_item(1)) is None
    bench.send(again)
    bench.only_file()


def test_items_of_one_name_are_all_delivered(bench: Bench) -> None:
    drive = bench.open_drive()
    with ThreadPoolExecutor(8) as pool:
        items = [Item(f"x{n}", 1, "Same", "Start", 1, "u") for n in range(20)]
        list(
            pool.map(
                lambda i: drive.deliver(
                    i, Fetched(bench.file(9, int(i.item_id[1:]))), ignore_bytes
                ),
                items,
            )
        )
    assert len({file["name"] for file in bench.emulator.store.media()}) == 20


def test_with_two_folders_of_one_task_the_oldest_is_used(bench: Bench) -> None:
    store = bench.emulator.store
    body = {"name": "A course [task-7]", "mimeType": FOLDER, "parents": [store.root]}
    ours = {**body, "appProperties": PROPERTIES}
    oldest = store.insert({**ours, "id": "zzz"}, checked=False)
    store.insert({**ours, "id": "aaa"}, checked=False)
    assert bench.open_drive().location[0] == oldest["id"]


def test_delivery_to_a_shared_drive_works(tmp_path: Path) -> None:
    with DriveEmulator(Store(shared_drive=True)) as emulator:
        bench = Bench(emulator, tmp_path)
        bench.send(bench.open_drive())
        assert bench.open_drive().find(build_item(1)) is not None


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
def test_temporary_fault_is_retried_and_leaves_one_file(
    bench: Bench, operation: str, fault: Fault, times: int
) -> None:
    bench.chunk = MIB
    bench.emulator.faults.script(operation, *[fault] * times)
    bench.send(bench.open_drive(), size=3 * MIB)
    bench.only_file()
    assert len(bench.emulator.faults.happened) == times
    if fault.kind in ("partial", "cut"):
        assert f"bytes=0-{MIB // 2 - 1}" in bench.emulator.ranges, (
            "Drive keeps half of the chunk and says so"
        )
        assert bench.emulator.store.bytes == 3 * MIB, "the kept half is not sent again"


@pytest.mark.parametrize("kind", ["lost", "truncated", "page"])
def test_lost_final_response_never_makes_a_second_file(bench: Bench, kind: str) -> None:
    drive = bench.open_drive()
    bench.emulator.faults.script("chunk", Fault(kind))
    bench.send(drive, size=1000)
    bench.emulator.faults.script("chunk", Fault("lost"))
    bench.emulator.faults.script("probe", Fault(status=410, reason="gone"))
    bench.send(drive, size=1000, number=2)
    assert len(bench.emulator.store.media()) == 2


def test_retry_after_is_honoured_and_pauses_grow(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.faults.script(
        "session", Fault(status=429, reason="rateLimitExceeded", headers={"Retry-After": "77"})
    )
    bench.send(drive)
    assert bench.pauses.seconds == [77.0]
    bench.emulator.faults.script("session", *[Fault(status=503)] * 6)
    bench.send(drive, number=2)
    first, *_, last = bench.pauses.seconds[1:]
    assert len(bench.pauses.seconds) == 7 and first <= 1 and 16 <= last <= 32


def test_corrupt_upload_is_removed_and_sent_again(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.faults.script("chunk", Fault("corrupt"))
    bench.send(drive, size=1000)
    bench.only_file()
    bench.emulator.faults.script("chunk", *[Fault("corrupt")] * 3)
    with pytest.raises(Failure, match="CorruptUpload"):
        bench.send(drive, size=1000, number=2)
    bench.only_file()


def test_stopped_upload_continues_in_the_next_attempt(bench: Bench) -> None:
    drive = bench.open_drive()
    file = bench.file(5 * CHUNK)

    def stop_halfway(sent: int) -> None:
        if sent >= 2 * CHUNK:
            bench.stop.set()

    with pytest.raises(Failure, match="Stopped"):
        drive.deliver(build_item(1), Fetched(file), stop_halfway)
    (kept,) = (bench.folder / "scratch" / "drive").glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and "upload_id" in kept.read_text()
    bench.stop.clear()
    reported = bench.send(bench.open_drive(), size=5 * CHUNK)
    assert reported[-1] < 4 * CHUNK, "it starts where the first attempt stopped"
    assert bench.emulator.store.bytes == 5 * CHUNK
    bench.only_file()
    assert "upload_id" not in kept.read_text()


def test_expired_saved_session_is_replaced_by_a_new_one(bench: Bench) -> None:
    bench.break_off(5 * CHUNK)
    for upload in bench.emulator.store.uploads.values():
        upload.expired = True
    bench.send(bench.open_drive(), size=5 * CHUNK)
    bench.only_file()


def test_service_account_requests_token_with_or_without_subject(bench: Bench) -> None:
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
        bench.open_drive()
        form = bench.emulator.token_requests[-1]
        claims = form["assertion"].split(".")[1]
        assert json.loads(base64.urlsafe_b64decode(claims + "==")).get("sub") == subject


def test_workload_identity_is_used_when_no_credentials_are_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity federation exchanges the pod's own token for one of Google's."""
    (bench.folder / "pod-token").write_text("TOPSECRET-of-the-pod")
    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workloadIdentityPools/pool/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": bench.emulator.url + "token",
        "credential_source": {"file": str(bench.folder / "pod-token")},
    }
    (bench.folder / "federation.json").write_text(json.dumps(federation))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bench.folder / "federation.json"))
    bench.credentials = None
    bench.send(bench.open_drive())
    bench.only_file()
    (form,) = bench.emulator.token_requests
    assert form["subject_token"] == "TOPSECRET-of-the-pod"
    assert form["scope"] == "https://www.googleapis.com/auth/drive"


def test_no_credentials_at_all_is_a_configuration_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bench.folder / "nothing.json"))
    bench.credentials = None
    with pytest.raises(Failure, match="ConfigurationError: no Google credentials") as caught:
        bench.drive()
    assert caught.value.remedy.startswith("Set ENROLLGATE_DRIVE_CREDENTIALS, or")
    bench.subject = "teacher@school.example"
    with pytest.raises(Failure, match="ENROLLGATE_DRIVE_SUBJECT needs a service account's key"):
        bench.drive()


def test_revoked_login_is_named_and_no_secret_is_shown(bench: Bench) -> None:
    bench.emulator.token_refusal = "invalid_grant"
    with pytest.raises(Failure) as caught:
        bench.open_drive()
    assert caught.value.reason is Reason.DESTINATION_AUTH and "revoked" in caught.value.message
    assert "TOPSECRET" not in caught.value.message


def test_expired_token_is_renewed_once_and_upload_continues(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.emulator.tokens = {"better"}
    bench.send(drive)
    assert len(bench.emulator.token_requests) == 2


def test_token_that_expires_during_upload_costs_one_chunk(bench: Bench) -> None:
    drive = bench.open_drive()

    def replace_token() -> None:
        bench.emulator.tokens = {"better"}

    bench.emulator.on_chunk = replace_token
    reported = bench.send(drive, size=4 * CHUNK)
    assert reported[-1] == 5 * CHUNK, "one whole chunk is sent twice"
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
def test_bad_credentials_error_names_the_file(bench: Bench, text: str | None, words: str) -> None:
    bench.key_file.unlink() if text is None else bench.key_file.write_text(text)
    with pytest.raises(Failure) as caught:
        bench.drive()
    assert caught.value.reason is Reason.CONFIGURATION_ERROR and words in caught.value.message
    assert "login.json" in caught.value.message and "TOPSECRET" not in caught.value.message


def test_300_uploads_with_a_fifth_of_faulty_answers_arrive_once(
    tmp_path: Path,
) -> None:
    with DriveEmulator(faults=Faults(0.2, seed=4)) as emulator:
        bench = Bench(emulator, tmp_path)
        drive = bench.open_drive()
        bench.file(300_000, 1)
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda n: drive.deliver(
                        build_item(n), Fetched(bench.folder / "1.mp4"), ignore_bytes
                    ),
                    range(1, 301),
                )
            )
        files = emulator.store.media()
        assert len({file["name"] for file in files}) == len(files) == 300
        assert {file["md5Checksum"] for file in files} == {
            hashlib.md5(content(300_000, 1)).hexdigest()
        }
        assert len(emulator.faults.happened) > 100


def test_run_reports_the_folder_and_second_run_skips_all(tmp_path: Path) -> None:
    with (
        DriveEmulator() as emulator,
        FaultySite([Lecture(f"L{n}", lecture(70_000, n)) for n in range(3)]) as site,
    ):
        bench = Bench(emulator, tmp_path)
        order = bench.order(site, drive_chunk_size=CHUNK, course_index=False)
        report = work(order, stop=threading.Event())
        assert (report.reason, report.items_delivered) == (None, 3)
        assert report.destination_url.startswith("https://drive.google.com/drive/folders/")
        again = work(order, stop=threading.Event())
        assert (again.reason, again.items_skipped, again.destination_id) == (
            None,
            3,
            report.destination_id,
        )


def test_a_file_whose_item_has_a_new_id_is_renamed_not_uploaded(bench: Bench) -> None:
    bench.deliver(bench.open_drive(), 1, "Start")
    drive = bench.open_drive()
    renamed = replace(build_item(2), item_id="another")
    assert drive.find(renamed) is None
    file = Fetched(bench.file(10, 1), Validators(10, '"a"', ""))
    drive.deliver(renamed, file, ignore_bytes)
    found = bench.open_drive().find(renamed)
    assert found is not None and found.validators == Validators(10, '"a"', "")
    assert bench.only_file()["name"] == "02 - Lecture 2.mp4"


def test_a_listed_items_file_is_never_given_to_another(bench: Bench) -> None:
    bench.deliver(bench.open_drive(), 1)
    drive = bench.open_drive()
    assert drive.find(build_item(1)) is not None and drive.find(build_item(2)) is None
    drive.deliver(build_item(2), Fetched(bench.file(10, 1)), ignore_bytes)
    assert len(bench.emulator.store.media()) == 2


def test_a_validator_that_drive_has_no_room_for_is_left_out(bench: Bench) -> None:
    drive = bench.open_drive()
    validators = Validators(10, '"' + "e" * 120 + '"', "Sat, 28 Nov 2026 06:00:00 GMT")
    drive.deliver(build_item(1), Fetched(bench.file(10), validators), ignore_bytes)
    found = bench.open_drive().find(build_item(1))
    assert found is not None and found.validators == replace(validators, etag="")


def test_a_course_that_grows_to_100_items_gets_longer_numbers(bench: Bench) -> None:
    drive = bench.open_drive()
    bench.deliver(drive, 99, "Start")
    drive = bench.open_drive()
    grown = replace(build_item(99, "Start"), widths=(3,))
    found = drive.find(grown)
    assert found is not None and found.path == "01 - Start/099 - Lecture 99.mp4"
    assert bench.only_file()["name"] == "099 - Lecture 99.mp4"
    bench.only_file()["name"] = "my favourite.mp4"
    again = bench.open_drive().find(replace(grown, index=100))
    assert again is not None and bench.only_file()["name"] == "my favourite.mp4"


def test_a_file_that_drive_does_not_rename_is_there_all_the_same(bench: Bench) -> None:
    bench.deliver(bench.open_drive(), 99)
    drive = bench.open_drive()
    for _ in range(20):
        bench.emulator.faults.script("update", Fault(status=500))
    assert drive.find(replace(build_item(99), widths=(3,))) is not None
    assert bench.only_file()["name"] == "99 - Lecture 99.mp4"
