"""The time that a megabyte of output takes until it may be logged.

One text is an ordinary log. The others are what a hostile site or command would send, to make
patterns that backtrack take hours.
"""

import time

from enrollgate.common.redaction import redact

MEGABYTE = 1_000_000
# No more than about this is ever shown.
SHOWN = 250_000
ROUNDS = 5
# A part of each text, which is repeated.
TEXTS = {
    "a log": "2026-11-28 12:00:00 [download] 12.3 % of Lecture 12: choosing the clay.mp4\n",
    "one long word": "a",
    "addresses": "ada@example.com ",
    "signed URLs": "https://courses.example.com/1.mp4?signature=abc ",
    "nearly addresses": "a@b.",
    "encoded, nearly addresses": "x%40a.",
    "nearly URLs": "a://",
    "escape sequences": "\x1b[31m",
    "headers": "Cookie: a=b\n",
    "tokens": "token=abc upload_id=abc ",
    "fragments": "http://x/#a=b;c=d ",
    "all of them": "Cookie: a token=b http://x/#a=b;c a@b.c %40 \n",
}


def measure_redaction() -> list[dict[str, object]]:
    """Measure each text as one message, which is cut, and as a text that is shown whole."""
    results: list[dict[str, object]] = []
    for name, part in TEXTS.items():
        text = part * (MEGABYTE // len(part))
        half = _milliseconds(text[: SHOWN // 2], SHOWN)
        whole = _milliseconds(text[:SHOWN], SHOWN)
        results.append(
            {
                "text": name,
                "message_ms": _milliseconds(text, 1000),
                "all_of_it_ms": _milliseconds(text, len(text)),
                "relative_to_half_the_text": whole / half,
            }
        )
    return results


def _milliseconds(text: str, limit: int) -> float:
    """Return the CPU time of one call, the best of several rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        redact(text, limit)
        times.append(time.thread_time() - start)
    return min(times) * 1000
