"""Keep e-mail addresses, credentials and control characters out of logs and databases."""

import re
from collections.abc import Iterator
from functools import cache
from traceback import TracebackException

# Compiles a pattern when it is first used: a command starts quicker, and most texts need few.
_compiled = cache(re.compile)
# What ends a part of an e-mail address.
_END = r"\s<>\"'(),;:/=&?"
# The sign itself, and its wide and small forms.
_SIGN = "@\uff20\ufe6b"
# The last label begins with a letter, unlike that of a version; it may be of any script (IDN). A
# dot may be encoded as in a URL or in HTML.
_LABEL = rf"[^{_SIGN}%.\u3002\uff0e\uff61{_END}]++"
_DOT = r"(?:[.\u3002\uff0e\uff61]|%(?:25)*+2[eE]|&#46;|&period;)"
_DOMAIN = (
    rf"(?:(?:{_LABEL}{_DOT})+[^\W\d_][A-Za-z0-9\-\u0080-\U0010ffff]*+|localhost\b"
    r"|\d{1,3}(?:\.\d{1,3}){3}\b|\[[0-9A-Za-z:.]{2,50}\])"
)
# An `@` that is encoded: in a URL, once or several times; in JSON; in HTML.
_ENCODED = r"%(?:25)*+40|\\u0040|&(?:#0{0,5}64|#[xX]0{0,5}40|commat);"
# Each pattern begins where a word or a host begins and looks at no character twice: its time is
# linear in the text. A quoted local part may end with a quote.
_EMAIL = (
    rf"(?<![^{_SIGN}{_END}])[^{_SIGN}{_END}]++[\"']?[{_SIGN}]{_DOMAIN}"
    rf"|(?:(?<![^{_SIGN}{_END}])|(?<=%40)|(?<=%2540))"
    rf"(?:[^{_SIGN}%\\{_END}]++|%(?!(?:25)*+40)|\\(?!u0040))++(?:{_ENCODED}){_DOMAIN}"
)
# What an e-mail address cannot be without, in a text and in a word of it.
_EMAIL_MARKS = re.compile(rf"[{_SIGN}]|%40|%25|\\u0040|&#|&commat")
# A URL's host with a user name, its path to the first parameter in it (as in `;token=abc` and
# `#access_token=abc`), the rest of the path, and the query to the end of the word.
_URL = (
    r"://([^/\s?#\"'<>]*+)([^\s?\"'<>;#]*+(?:[;#][^;#=\s?\"'<>]*+(?!=))*+)([;#][^\s?\"'<>]*+)?"
    r"(\?[^\s\"'<>]*+)?"
)
# The query of a relative URL.
_QUERY = r"\?[^\s=\"'<>?]++=[^\s\"'<>]*+"
# What credentials look like that a person does not choose: they have a digit soon.
_RANDOM = r"(?=\S{0,40}\d)"
# In lower case: headers to the end of the line, or of the quotes that a program printed them in.
_HEADER = (
    r"((?:cookie2?|authorization)(?:[\"']?[ \t]{0,2}[:=]|[\"'][ \t]?,)[ \t]{0,2})"
    r"(?:\"[^\"\r\n]++\"?|'[^'\r\n]++'?|[^\s\"'][^\r\n]*+)"
    r"|\b(bearer[ \t]{1,2})[\w.~+/=-]{12,}+"
    rf"|\b(basic[ \t]{{1,2}}){_RANDOM}[a-z0-9+/]{{8,}}+={{0,2}}"
)
# In lower case: `name=value`, `"name": "value"` and `name: value`, where the name ends with one of
# these words. Without quotes, what follows a colon may be a sentence.
_SECRET = (
    r"((?:token|passw(?:or)?d|passphrase|secret|signature|credential|upload_?id|sess(?:ion)?_?id"
    r"|(?:api|access|account|auth|private|secret|shared|signing|storage)[-_]?key"
    r"|\b(?:jwt|pwd|sid|sig))"
    r"(?:\\?[\"']?[ \t]?=[ \t]?[\"']?|\\?[\"'][ \t]?:[ \t]?\\?[\"']"
    rf"|[ \t]?:[ \t]{{1,2}}{_RANDOM}(?=[^\s\"',;]{{6}})))"
    r"(?:(?<=\")[^\"\r\n\\]++|(?<=')[^'\r\n\\]++|[^\s\"'&;,<>\\]++)"
)
_HEADER_WORDS = ("cookie", "authorization", "bearer", "basic")
_SECRET_WORDS = (
    "token",
    "pass",
    "secret",
    "sig",
    "cred",
    "upload",
    "sess",
    "key",
    "jwt",
    "pwd",
    "sid",
)
# Credentials that need no name: a private key, a JSON Web Token, keys and tokens of Google and AWS.
_CREDENTIAL = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}+(?:\.[\w-]++){1,4}"
    r"|\b(?:ya29\.|1//0|AIza|GOCSPX-)[\w.~/+-]{10,}+|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
)
_CREDENTIAL_MARKS = ("PRIVATE KEY", "eyJ", "ya29.", "1//0", "AIza", "GOCSPX-", "AKIA", "ASIA")
_SPACE = re.compile(r"(\s+)")
# What a terminal or a log viewer would obey: control characters, other line ends, and marks that
# change the direction of text. Joiners stay, since Persian, Indic scripts and emoji need them.
_CONTROLS = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
# Common characters are in it as well: `str.translate` is slow for those that are not.
_ESCAPES: dict[int, int | str] = {character: character for character in range(0x250)}
_ESCAPES |= {control: chr(control).encode("unicode_escape").decode() for control in _CONTROLS}
# How many characters are looked at for each one that may be returned, and in all.
_LOOKED_AT = 16
_LOOKED_AT_LIMIT = 2**18
# Of a traceback: frames of each exception, and exceptions one behind the other.
_MAX_FRAMES = 30
_MAX_CAUSES = 5


def redact(text: str, limit: int = 1000) -> str:
    """Return the text without secrets, cut to `limit` characters.

    E-mail addresses, user names and parameters in URLs, the headers Cookie and Authorization, and
    values named as tokens or passwords are removed: a signed URL is a credential. Control
    characters are escaped (`\\n`, `\\x1b`), so the result is one line. Single surrogates are
    replaced, since no database stores them. The time is linear in `limit`, however long the text
    is, and no more than 256 Ki characters are returned: so it is below 0.1 s.
    """
    looked_at = min(_LOOKED_AT * limit, _LOOKED_AT_LIMIT)
    if len(text) > looked_at:
        text = text[:looked_at]
        # The cut may have parted an address or a URL: its rest is not shown.
        kept = max(text.rfind(space) for space in " \t\n")
        text = f"{text[: kept + 1]}..."
    text = text.encode("utf-8", "replace").decode()
    if any(mark in text for mark in _CREDENTIAL_MARKS):
        text = _compiled(_CREDENTIAL).sub("...", text)
    if any(mark in text for mark in ("=", ":", "earer", "EARER", "asic ", "ASIC ")):
        for pattern, words in ((_HEADER, _HEADER_WORDS), (_SECRET, _SECRET_WORDS)):
            # A pattern that ignores case takes six times as long. U+0130 is the one letter that
            # becomes two.
            lowered = text.replace("\u0130", "i").lower()
            if any(word in lowered for word in words):
                text = _cut_values(text, lowered, _compiled(pattern))
    if "://" in text:
        text = _compiled(_URL).sub(_shorten_url, text)
    if "?" in text and "=" in text:
        text = _compiled(_QUERY).sub("?...", text)
    if _EMAIL_MARKS.search(text):
        # Most words need no look: this is the slowest pattern.
        text = "".join(
            _compiled(_EMAIL).sub("<e-mail>", word) if _EMAIL_MARKS.search(word) else word
            for word in _SPACE.split(text)
        )
    if not text.isprintable():
        text = text.translate(_ESCAPES)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _cut_values(text: str, lowered: str, pattern: re.Pattern[str]) -> str:
    """Replace the values that the pattern finds; `lowered` is the text in lower case."""
    shown, end = list[str](), 0
    for found in pattern.finditer(lowered):
        shown += (text[end : found.end(found.lastindex or 0)], "...")
        end = found.end()
    return "".join((*shown, text[end:]))


def _shorten_url(url: re.Match[str]) -> str:
    """Return a URL from its `://` on, without user name, query and other parameters."""
    host, path, parameters, query = url.groups()
    if "@" in host:
        host = host.rpartition("@")[2]
    kept = f"{parameters[0]}..." if parameters else ""
    return f"://{host}{path}{kept}{'?...' if query else ''}"


def redacted_traceback(error: BaseException) -> str:
    """Return the error's traceback without local variables, each of its lines redacted.

    A message of several lines becomes one, so that it cannot pass for lines of the log. The last
    frames and causes are shown, some dozens at most.
    """
    described = TracebackException.from_exception(error, limit=-_MAX_FRAMES, compact=True)
    return "".join(f"{line}\n" for line in _traceback_lines(described, _MAX_CAUSES))


def _traceback_lines(described: TracebackException, depth: int) -> Iterator[str]:
    earlier = described.__cause__
    if earlier is None and not described.__suppress_context__:
        earlier = described.__context__
    if earlier is not None and depth:
        yield from _traceback_lines(earlier, depth - 1)
        yield "It led to this exception:"
    yield "Traceback (most recent call last):"
    for frame in described.stack.format():
        yield from map(redact, frame.splitlines())
    yield redact("".join(described.format_exception_only()).strip())
    for each in (described.exceptions or ())[: depth and _MAX_CAUSES]:
        yield from (f"  | {line}" for line in _traceback_lines(each, depth - 1))


def printable(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
