"""Enrollgate: one download run per enrolled task, and never a run before its enrollment."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("enrollgate")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
