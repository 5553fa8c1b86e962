"""The name of an account's cookies file, which does not show the account.

A worker gets the *name of a file*, never the e-mail address. Anyone can compute the name with
`sha256sum`: strip the white space around the e-mail address, lower-case it, and take the SHA-256 of
its UTF-8 bytes. The name is `cookies-`, the first 32 hexadecimal digits, and `.txt`. It is a valid
key of a Kubernetes Secret (`[-._a-zA-Z0-9]{1,253}`).
"""

import hashlib

# The file of every account that has no file of its own.
DEFAULT_COOKIES_NAME = "cookies.txt"


def account_sha256(email: str) -> str:
    """Return the digest that stands for the account wherever its e-mail address must not."""
    return hashlib.sha256(email.strip().lower().encode()).hexdigest()


def cookies_name(email: str) -> str:
    """Return the name of the account's cookies file in ENROLLGATE_COOKIES_DIR."""
    return build_cookies_name(account_sha256(email))


def build_cookies_name(account: str) -> str:
    """Return the name of the cookies file of an account, given by its digest."""
    return f"cookies-{account[:32]}.txt"


def mask_account(email: str) -> str:
    """Return the e-mail address so that its owner recognizes it, and nobody can write to it.

    `ada@example.com` becomes `a***@example.com`.
    """
    name, _, host = email.strip().rpartition("@")
    masked = f"{(name or host)[:1]}***"
    return f"{masked}@{host}" if name else masked
