"""What a hold says to people."""

from datetime import datetime

import pytest

from enrollgate.commands.hold_text import find_remedy
from enrollgate.database.hold_views import HoldView
from enrollgate.domain.account import build_cookies_name
from enrollgate.domain.hold import HoldKind
from enrollgate.domain.holds import SCOPES
from enrollgate.domain.reasons import Reason

ACCOUNT = "0123456789abcdef" * 4


@pytest.mark.parametrize("remedy", [None, "Export them again."])
@pytest.mark.parametrize("reason", SCOPES)
def test_remedy_of_a_hold_says_what_closes_it(reason: Reason, remedy: str | None) -> None:
    hold = HoldView(
        hold_id=7,
        kind=HoldKind.HOLD.value,
        scope=SCOPES[reason].value,
        subject=ACCOUNT,
        reason=reason.value,
        message="the site said no",
        remedy=remedy,
        opened_at=datetime(2026, 1, 1, 12, 0, 0),  # noqa: DTZ001 -- as in the database
        opened_by="",
        run_name="test-1-1",
        allowed=0,
        probes=0,
        probe_at=None,
        ends_at=None,
        closed_at=None,
        closed_by=None,
    )
    shown = find_remedy(hold)
    assert "`enrollgate release 7`" in shown and (remedy or "") in shown
    is_about_cookies = reason.value.startswith("Cookies") or reason is Reason.ACCESS_DENIED
    assert (
        f"{build_cookies_name(ACCOUNT)}: a new one closes the hold" in shown
    ) is is_about_cookies
