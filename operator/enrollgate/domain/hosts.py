"""Temporary placeholder until the worker's author replaces this file."""

from urllib.parse import urlsplit

from enrollgate.domain.reasons import Failure, Reason


def check_url(url: str, allowed_hosts: tuple[str, ...]) -> None:
    if len(url) > 2048:
        raise Failure(Reason.INVALID_COURSE_URL, "longer than 2,048 characters")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise Failure(Reason.INVALID_COURSE_URL, f"scheme {parts.scheme}")
    if (parts.hostname or "").startswith(("169.", "10.")):
        raise Failure(Reason.HOST_NOT_ALLOWED, f"{parts.hostname} is private")
