"""People see an account masked."""

import pytest

from enrollgate.domain.account import mask_account


@pytest.mark.parametrize(
    ("email", "masked"),
    [
        ("ada@example.com", "a***@example.com"),
        (" Ada.Lovelace+x@example.com\n", "A***@example.com"),
        ("a@b@example.com", "a***@example.com"),
        ("no address", "n***"),
        ("@example.com", "e***"),
        ("", "***"),
    ],
)
def test_an_account_is_shown_without_its_name(email: str, masked: str) -> None:
    assert mask_account(email) == masked
