"""The account's cookies file, named without naming the account.

A worker is told the *name of a file*, never the e-mail. The rule, which anyone can repeat with `sha256sum`: strip the
white space around the e-mail, lower-case it, take the SHA-256 of its UTF-8 bytes; the name is `cookies-` + the first 32
hexadecimal digits + `.txt`. It fits a Kubernetes Secret key (`[-._a-zA-Z0-9]{1,253}`).
"""

import hashlib

DEFAULT_COOKIES_NAME = "cookies.txt"
"""The file for every account that has none of its own."""


def cookies_name(email: str) -> str:
    """The name of the account's cookies file in ENROLLGATE_COOKIES_DIR."""
    digest = hashlib.sha256(email.strip().lower().encode()).hexdigest()
    return f"cookies-{digest[:32]}.txt"
