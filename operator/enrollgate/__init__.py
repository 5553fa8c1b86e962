"""Enrollgate: one download run per enrolled task, and never a run before its enrollment."""

__all__ = ["version"]


def version() -> str:
    """Return the installed version. It is looked up late: every supervisor imports this package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("enrollgate")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0.0.0+source"
