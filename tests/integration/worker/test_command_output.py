"""What a download command prints is read in bounded memory, and never keeps it waiting."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.integration.launchers.harness import wait_for
from tests.orders import make_order

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.command import Command
from enrollgate.worker.order import WorkOrder

# Reports the peak of its memory, in MB, with and without the command.
MEASURED = """
import json, sys, threading
from pathlib import Path
from benchmarks.memory import peak
from tests.integration.worker.test_command_output import order_for
from enrollgate.domain.reasons import Failure
from enrollgate.worker.downloaders.command import Command
before = peak()
try:
    Command(order_for(Path(sys.argv[1]), *sys.argv[2:]), threading.Event()).open()
except Failure as failure:
    print(json.dumps([peak() - before, failure.message]))
else:
    print(json.dumps([peak() - before, ""]))
"""


def order_for(tmp_path: Path, *command: str) -> WorkOrder:
    return make_order(
        tmp_path,
        downloader="command",
        download_command=(*command, "{course_url}", "{output_dir}"),
        stop_grace=10,
    )


def measure(tmp_path: Path, script: str) -> tuple[float, str, str]:
    """Run a shell script. Return the memory that it took (MB), the failure and the log."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), "sh", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    megabytes, message = json.loads(done.stdout)
    return megabytes, message, done.stderr


@pytest.mark.parametrize("stream", ["1", "2"], ids=["standard output", "standard error"])
@pytest.mark.parametrize(
    "source", ["head -c 1G /dev/zero", "yes | head -c 1G"], ids=["no line ends", "many lines"]
)
def test_a_gigabyte_of_output_takes_little_memory_and_disk(
    tmp_path: Path, stream: str, source: str
) -> None:
    megabytes, message, log = measure(tmp_path, f"({source}) >&{stream}; exit 3")
    assert megabytes < 30 and len(log) < 2_000_000
    assert message.startswith("the download command ended with exit code 3: ")
    assert len(message) < 700
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 100_000


def test_sigterm_is_obeyed_while_the_command_floods_its_output(tmp_path: Path) -> None:
    script = 'touch "$1/begun"; yes & exec yes >&2'
    order = order_for(tmp_path, "sh", "-c", script)
    stop = threading.Event()

    def stop_when_it_runs() -> None:
        wait_for((order.scratch_dir / "output" / "begun").exists)
        stop.set()

    threading.Thread(target=stop_when_it_runs).start()
    with pytest.raises(Failure) as raised:
        Command(order, stop).open()
    assert raised.value.reason is Reason.STOPPED


def test_the_message_holds_the_last_lines_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "for n in $(seq 2000); do echo step $n of ada@example.com >&2; done\n"
        r"printf '10%%\r20%%\r\033[31mdone\033[0m at https://c.example/?sig=secret\n' >&2"
        "\nexit 4"
    )
    with pytest.raises(Failure) as raised:
        Command(order_for(tmp_path, "sh", "-c", script), threading.Event()).open()
    assert raised.value.message == (
        "the download command ended with exit code 4: step 1997 of <e-mail> | step 1998 of "
        "<e-mail> | step 1999 of <e-mail> | step 2000 of <e-mail> | "
        r"\x1b[31mdone\x1b[0m at https://c.example/?..."
    )
    log = capsys.readouterr().err
    assert "step 1 of <e-mail>\n" in log and "ada@" not in log and "secret" not in log
    assert "\x1b" not in log and "20%" not in log


def test_a_secret_that_is_cut_in_two_is_not_shown(tmp_path: Path) -> None:
    """Wherever the kept end of the output begins."""
    for size in range(4050, 4100, 7):
        text = "x" * 9000 + " ada@example.com " + "y" * (size - 17)
        script = f"printf %s {text!r} >&2; exit 1"
        with pytest.raises(Failure) as raised:
            Command(order_for(tmp_path, "sh", "-c", script), threading.Event()).open()
        assert "example.com" not in raised.value.message, size


@pytest.mark.parametrize("end", ["", r"\n"], ids=["no line end", "line end"])
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf 'x%.0s' $(seq 40000) >&2; printf 'gone{end}' >&2", "..." + "x" * 593 + "gone"),
        ("printf 'word %.0s' $(seq 9000) >&2; printf 'gone{end}' >&2", "word word gone"),
        (
            "printf 'https://c.example/?sig=' >&2; printf 'secret%%%.0s' $(seq 9000) >&2; "
            "printf '{end}' >&2",
            "(a line that is too long to show)",
        ),
    ],
    ids=["letters", "words", "address"],
)
def test_the_message_holds_the_end_of_a_long_line(
    tmp_path: Path, script: str, said: str, end: str
) -> None:
    command = ("bash", "-c", script.replace("{end}", end) + "; exit 1")
    with pytest.raises(Failure) as raised:
        Command(order_for(tmp_path, *command), threading.Event()).open()
    message = raised.value.message
    assert message.startswith("the download command ended with exit code 1: ")
    assert message.endswith(said) and "secret" not in message and len(message) < 700
