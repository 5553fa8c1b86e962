"""What a hold or pause is, for people: which tasks wait, why, and until when. Pure functions."""

from datetime import datetime

from enrollgate.commands.layout import instant, since
from enrollgate.common.redaction import redact
from enrollgate.database.hold_views import HoldView
from enrollgate.domain.account import build_cookies_name
from enrollgate.domain.hold import Scope
from enrollgate.domain.reasons import ABOUT_COOKIES, Reason, explain


def name_scope(hold: HoldView) -> str:
    """Name what the hold is about: `account a***@example.com`, `host ...`, `destination`.

    The masked address would not survive `redact`; all else is without addresses.
    """
    if hold.scope == Scope.ACCOUNT:
        return f"account {hold.account or f'with the file {build_cookies_name(hold.subject)}'}"
    return redact(f"{hold.scope} {hold.subject}".strip(), 300)


def name_scope_of_task(hold: HoldView) -> str:
    """Name what the hold is about to someone who looks at one of its tasks."""
    its = "its" if hold.scope in (Scope.ACCOUNT, Scope.HOST) else "the"
    host = f" {hold.subject}" if hold.scope == Scope.HOST else ""
    return f"{its} {hold.scope}{host}"


def describe_cause(hold: HoldView, now: datetime) -> str:
    """Say since when and why the tasks wait."""
    began = f"since {instant(hold.opened_at)} (UTC, {since(hold.opened_at, now)} ago)"
    if hold.is_pause:
        why = f": {hold.message}" if hold.message else "; no reason was given"
        return f"paused by {hold.opened_by} {began}{why}"
    run = f" of run {hold.run_name}" if hold.run_name else ""
    return f"on hold {began}, because{run}: {hold.reason}: {hold.message or 'no message'}"


def describe_end(hold: HoldView, now: datetime) -> str:
    """Say what is let through, and when it ends."""
    ends = f"At {instant(hold.ends_at)} (UTC) " if hold.ends_at else ""
    if hold.is_pause:
        return f"{ends}it ends by itself." if ends else "It ends by ENROLLGATE_HOLD_LIMIT."
    if hold.allowed:
        return (
            f"The last probe run succeeded: {hold.allowed} at a time are let through now, and more "
            "after each success."
        )
    probe = "The next pass lets one probe run through."
    if hold.probe_at is None:
        probe = "A probe run is not planned."
    elif hold.probe_at > now:
        probe = f"The next probe run is due in {since(now, hold.probe_at)}."
    failed = f" {hold.probes} {'probe has' if hold.probes == 1 else 'probes have'} failed."
    ends = f" {ends}its tasks fail." if ends else ""
    return f"{probe}{failed if hold.probes else ''}{ends}"


def find_remedy(hold: HoldView) -> str:
    """Say what to do about it."""
    if hold.is_pause:
        return f"`enrollgate release {hold.hold_id}` ends it now."
    remedy = hold.remedy or ""
    if not remedy and hold.reason in set(Reason):
        remedy = explain(Reason(hold.reason)).remedy
    release = f"`enrollgate release {hold.hold_id}` lets the tasks go on at once."
    if hold.reason in ABOUT_COOKIES:
        file = build_cookies_name(hold.subject)
        return (
            f"{remedy} The account's file is {file}: a new one closes the hold, if the operator "
            f"can read it. Else {release}"
        )
    return f"{remedy} Then {release}"
