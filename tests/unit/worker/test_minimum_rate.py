"""A connection that sends too little over a minute is given up, on a clock that tests drive."""

import io
import socket
import threading
from typing import cast

import pytest
from typing_extensions import Buffer

from enrollgate.domain.reasons import Reason
from enrollgate.worker.downloaders.answers import AnswerLimits, WatchedAnswer
from enrollgate.worker.downloaders.refused import RequestRefused

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


class SlowConnection(io.RawIOBase):
    """A connection that sends its headers at once and then `size` bytes after `seconds` each."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._headers = HEADERS
        self.now = 0.0
        self.sent = 0

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, 1)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data, self._headers = self._headers[: len(view)], self._headers[len(view) :]
        if not data:
            self.now += self._seconds
            data = bytes(min(self._size, len(view)))
            self.sent += len(data)
        view[: len(data)] = data
        return len(data)


def open_answer(connection: SlowConnection, min_rate: int) -> WatchedAnswer:
    limits = AnswerLimits(threading.Event(), min_rate=min_rate, monotonic=lambda: connection.now)
    answer = WatchedAnswer(cast(socket.socket, connection), limits=limits)
    answer.begin()
    return answer


def test_one_byte_a_second_is_given_up_after_a_minute() -> None:
    connection = SlowConnection(size=1, seconds=1)
    answer = open_answer(connection, min_rate=1024)
    with pytest.raises(RequestRefused, match="bytes per second for 60 seconds") as refused:
        answer.read(65536)
    assert refused.value.failure.reason is Reason.NETWORK_ERROR
    assert connection.now == 60


def test_a_connection_at_the_minimum_is_read_to_its_end() -> None:
    connection = SlowConnection(size=1024, seconds=1)
    answer = open_answer(connection, min_rate=1024)
    assert len(b"".join(iter(lambda: answer.read(65536), b""))) == 1_000_000


def test_a_reader_that_is_slow_itself_is_not_the_site_s_fault() -> None:
    connection = SlowConnection(size=8192, seconds=0.001)
    answer = open_answer(connection, min_rate=1024)
    for _ in range(100):
        connection.now += 3600
        assert answer.read(8192)


def test_without_a_minimum_any_rate_will_do() -> None:
    connection = SlowConnection(size=1, seconds=1)
    answer = open_answer(connection, min_rate=0)
    assert len(answer.read(1000)) == 1000
