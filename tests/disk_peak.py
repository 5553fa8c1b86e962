"""Measure the most bytes that a folder ever holds, by a hook that cannot miss a peak.

A folder only shrinks when a file is removed, replaced or truncated. So the hook measures just
before each of these calls, and once at the end. A lock keeps other threads from removing files
during the measurement.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class DiskPeak:
    """Measures a folder from its creation until the test ends."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._most = 0
        for name in ("remove", "unlink", "rename", "replace", "truncate"):
            monkeypatch.setattr(os, name, self._measured(getattr(os, name)))

    @property
    def most(self) -> int:
        """Return the most bytes so far."""
        with self._lock:
            self._measure()
            return self._most

    def _measured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._measure()
                return function(*arguments, **options)

        return measured

    def _measure(self) -> None:
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(folder) / name).lstat().st_size
        self._most = max(self._most, total)
