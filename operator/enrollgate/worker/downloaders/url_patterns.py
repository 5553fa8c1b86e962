"""Find a text that a URL must contain to match a regular expression, without compiling that.

yt-dlp has a pattern of URLs for each of its 1,800 extractors, and asks them one after the other
which of them knows a URL. To compile them all takes a third of a worker's start. Most name a host,
and a URL without that name needs no compiled pattern.
"""

import re

# One token of a pattern: plain characters, a group's borders, and the rest of the syntax.
_TOKEN = re.compile(
    r"""
      (?P<plain> (?: [^\\\[\](){}*+?|.^$] | \\[^a-zA-Z0-9] )+ )
    | (?P<open> \( )
    | (?P<close> \) )
    | (?P<either> \| )
    | (?P<repeat> [*?] | \{ [0-9]* ,? [0-9]* \} )
    | \[ \^? \]? (?: \\. | [^\]\\] )* \]
    | \\. | .
    """,
    re.VERBOSE | re.DOTALL,
)
_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)")
_VERBOSE_GROUP = re.compile(r"\(\?[a-zA-Z]*x[a-zA-Z-]*:")
# White space and comments of verbose patterns, and what may contain the like but is none.
_SPACE = re.compile(r"(?P<kept>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\s#\\\[]+)|\s+|#[^\n]*", re.DOTALL)


def required_text(pattern: str) -> str:
    """Return a text, in lower case, that each match of a pattern contains, whatever its case.

    Empty if none is found: groups are skipped, and alternatives outside of groups require nothing.
    """
    flags = _FLAGS.match(pattern)
    if flags is not None and "x" in flags[1]:
        pattern = "".join(each["kept"] or "" for each in _SPACE.finditer(pattern, flags.end()))
    if _VERBOSE_GROUP.search(pattern):
        return ""  # its comments may look like syntax
    best, run, depth = "", "", 0
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif depth:
            continue
        elif kind == "either":
            return ""
        elif kind == "plain":
            run = re.sub(r"\\(.)", r"\1", token[0])
            continue
        elif kind == "repeat":
            run = run[:-1]  # its last character may be missing
        best, run = max(best, run, key=len), ""
    return max(best, run, key=len).lower()
