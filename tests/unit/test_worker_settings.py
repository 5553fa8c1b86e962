"""A worker loads exactly the settings that its launcher handed over."""

import os
import string
from pathlib import Path
from unittest import mock

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.domain.destination import DirectoryDestination, DriveDestination
from enrollgate.domain.reasons import ACCEPTABLE_REASONS
from enrollgate.settings.loading import load_worker_settings
from enrollgate.settings.worker import WorkerSettings

# What an environment variable can hold.
TEXT = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=30
)
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)
PATHS = st.lists(
    TEXT.filter(lambda text: text not in (".", "..") and "/" not in text), min_size=1, max_size=4
).map(lambda parts: Path("/", *parts))
FOLDER_IDS = st.text(string.ascii_letters + string.digits + "_-", min_size=10, max_size=40)
HOSTS = st.one_of(
    NAMES,
    st.tuples(NAMES, NAMES).map("*.{0[0]}.{0[1]}".format),
    st.tuples(NAMES, st.integers(1, 65535)).map("{0[0]}.example:{0[1]}".format),
    st.ip_addresses().map(str),
)
RATES = st.none() | st.integers(1024, 2**60)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "destination": PATHS.map(DirectoryDestination) | FOLDER_IDS.map(DriveDestination),
    "drive_credentials": st.none() | PATHS,
    "drive_subject": st.none() | TEXT,
    "drive_chunk_size": st.integers(1, 1024).map(lambda units: units * 256 * 1024),
    "drive_endpoint": NAMES.map("http://{}/".format) | NAMES.map("https://example.com/{}/".format),
    "downloads": st.integers(1, 16),
    "uploads": st.integers(1, 16),
    "download_rate": RATES,
    "upload_rate": RATES,
    "allowed_hosts": st.lists(HOSTS, max_size=4).map(tuple),
    "min_download_rate": st.integers(0, 2**60),
    "incomplete": st.sampled_from(["fail", "accept"]),
    "incomplete_reasons": st.lists(st.sampled_from(list(map(str, ACCEPTABLE_REASONS))), max_size=4)
    .map(tuple)
    .filter(bool),
    "max_retry_after": st.floats(0, 3650 * 86400, exclude_min=True),
    "cookies_dir": st.none() | PATHS,
    "scratch_limit": st.integers(1, 2**60),
    "quality": st.sampled_from(["best", "1080", "720", "480", "360", "audio"]),
    "subtitles": st.sampled_from([("all",), ("none",), ("en",), ("vi", "pt-br", "zh-hans-cn")]),
    "automatic_subtitles": st.booleans(),
    "attachments": st.booleans(),
    "thumbnails": st.booleans(),
    "course_index": st.booleans(),
    "stop_grace": st.floats(0, 3650 * 86400, exclude_min=True),
}
COMMANDS = st.lists(TEXT, max_size=3).map(lambda words: (*words, "{course_url}", "{output_dir}"))
DOWNLOADERS: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.fixed_dictionaries({"downloader": st.just("yt-dlp")}),
    st.fixed_dictionaries({"downloader": st.just("command"), "download_command": COMMANDS}),
)


@hypothesis.settings(deadline=None)
@given(values=st.fixed_dictionaries({}, optional=FIELDS), downloader=DOWNLOADERS)
def test_every_worker_setting_survives_the_environment(
    values: dict[str, object], downloader: dict[str, object]
) -> None:
    settings = WorkerSettings.model_validate(values | downloader)

    with mock.patch.dict(os.environ, settings.to_env(), clear=True):
        assert load_worker_settings() == settings


def test_the_round_trip_covers_every_worker_setting() -> None:
    assert {*FIELDS, "downloader", "download_command"} == set(WorkerSettings.model_fields)
