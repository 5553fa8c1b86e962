"""Time spans and numbers of bytes as people read them: in a terminal, on the page, in a message."""

# Seconds in each unit of a duration, and the unit below it.
_DURATIONS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_SIZES = ("kB", "MB", "GB", "TB", "PB")


def duration(seconds: float | None) -> str:
    """Return a time span: `0.4 s`, `45 s`, `12 min 5 s`, `3 h 20 min` or `2 d 4 h`.

    Below 10 seconds it is rounded to a tenth. None: `unknown`.
    """
    if seconds is None:
        return "unknown"
    tenths = round(max(0.0, seconds), 1)
    if tenths < 10:
        return f"{tenths:g} s"
    whole = round(seconds)
    for length, unit, smaller, smaller_unit in _DURATIONS:
        if whole >= length:
            rest = whole % length // smaller
            return f"{whole // length} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def size(number: float | None) -> str:
    """Return a number of bytes: `999 B`, `12.3 MB` or `1.0 GB`. None: `unknown`."""
    if number is None:
        return "unknown"
    if round(number) < 1000:
        return f"{round(number)} B"
    power = 1
    # 999.95 would be written as 1000.0.
    while number / 1000**power >= 999.95 and power < len(_SIZES):
        power += 1
    return f"{number / 1000**power:.1f} {_SIZES[power - 1]}"
