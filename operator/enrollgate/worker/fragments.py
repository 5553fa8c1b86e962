"""Find the fragments of a stream that lack a part, or that came twice.

A fragment that ends between two packets looks whole, and so does one that a site's cache sent in
place of another. Its playlist says how long each plays, and its packets say when. So a log beside
the stream's file has a line for each fragment, and `file_check` compares it with the packets:

    a gap before the next fragment, and the fragment plays less than listed    its end is missing
    nothing follows, and fragment and stream play less than listed             the same
    the same bytes at another address                                          it came twice

One sign alone means nothing. Authors pause a recording, and packagers round durations, or cut at
another picture than they list.
"""

import bisect
import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from enrollgate.common.strict_json import parse_json

# Seconds. Smaller gaps are of sounds whose packets do not end with the pictures.
_LEAST_GAP = 0.15
# Seconds by which a clock goes back when it starts again. Less is sorting.
_LEAST_RESET = 0.1


@dataclass(frozen=True, slots=True)
class Listed:
    """What a playlist says of one fragment."""

    seconds: float = 0.0  # 0: it does not say, or it is an initial section without media
    # Seconds that the last one may be shorter; none, if the playlist is silent about that.
    slack: float | None = None
    continues: bool = True  # its times follow those of the fragment before it


@dataclass(frozen=True, slots=True)
class Fragment:
    """A fragment that was appended to a stream's file."""

    end: int  # bytes of the file up to its end
    digest: str  # of its bytes
    address: str  # a digest of where it came from, without signatures; empty: unknown
    listed: Listed


def log_path(stream: Path) -> Path:
    """Return where the log of a stream's file is, complete or not."""
    return stream.with_name(f"{stream.name.removesuffix('.part')}.fragments")


def encode_fragment(fragment: Fragment) -> str:
    """Return a line of the log."""
    return json.dumps(asdict(fragment)) + "\n"


def read_fragments(log: Path) -> list[Fragment]:
    """Return the fragments that a log has, none without one.

    A line that a dying worker did not finish ends it.
    """
    fragments = list[Fragment]()
    with contextlib.suppress(OSError, ValueError), log.open(encoding="utf-8") as lines:
        for line in lines:
            match parse_json(line):
                case {
                    "end": int(end),
                    "digest": str(digest),
                    "address": str(address),
                    "listed": {
                        "seconds": float(seconds),
                        "slack": float() | None as slack,
                        "continues": bool(continues),
                    },
                }:
                    listed = Listed(seconds, slack, continues)
                    fragments.append(Fragment(end, digest, address, listed))
                case _:
                    break
    return fragments


class Timeline:
    """What the packets of a stream's file play in each of its fragments."""

    def __init__(self, fragments: Sequence[Fragment], *, has_times: bool, has_lengths: bool):
        """`has_times`: the format has time stamps. `has_lengths`: its packets say how long they
        last, also the last ones of a fragment.
        """
        self._fragments = fragments
        self._ends = [each.end for each in fragments]
        self._has_times = has_times
        self._has_lengths = has_lengths
        self._tracks = defaultdict[int, _Track](_Track)

    def add(self, stream: int, position: int | None, time: float | None, length: float) -> None:
        """Take a packet. `position` is its byte in the file, `time` and `length` are seconds."""
        track = self._tracks[stream]
        known = position is not None and position >= 0
        number = bisect.bisect_right(self._ends, position or 0) if known else track.fragment
        number = min(number, len(self._fragments) - 1)
        if track.is_empty:
            track.is_empty = False
        else:
            self._step(track, number, time)
        track.fragment = number
        track.time = time if time is not None else track.time + track.length
        track.length = length
        track.played[number] += 0.0

    def _step(self, track: "_Track", number: int, time: float | None) -> None:
        """Count the packet before the one that begins now, in the fragment `number`."""
        before = track.fragment
        step = track.length if time is None else time - track.time
        gap = step - track.length
        is_next = number != before
        skipped = self._fragments[before + 1 : number + 1]
        if (
            (is_next and not (self._has_times and all(each.listed.continues for each in skipped)))
            or step < -_LEAST_RESET
            or gap > self._fragments[before].listed.seconds + 1.0
        ):
            track.played[before] += track.length
            track.gaps[before] = math.inf
        elif gap > _LEAST_GAP and (is_next or self._has_lengths):
            track.played[before] += track.length
            track.gaps[before] += gap
        else:
            track.played[before] += max(step, 0.0)
            track.widest = max(track.widest, 0.0 if is_next or self._has_lengths else step)

    def find_cut(self) -> str | None:
        """Return which fragment is not whole, and how that shows. None: all are, for all we see."""
        for track in self._tracks.values():
            track.played[track.fragment] += track.length
            track.gaps[track.fragment] = math.inf
            track.length = 0.0
        tracks = self._tracks.values()
        played = [
            max((track.played.get(number, 0.0) for track in tracks), default=0.0)
            for number in range(len(self._fragments))
        ]
        longest = max((sum(track.played.values()) for track in tracks), default=0.0)
        total = sum(each.listed.seconds for each in self._fragments) - longest
        for number, fragment in enumerate(self._fragments):
            listed = fragment.listed
            missing = listed.seconds - played[number]
            # If pictures or sounds go on, nothing is missing between them.
            gap = min(
                (track.gap(number) for track in tracks if number in track.played), default=math.inf
            )
            if math.isinf(gap):
                is_cut = listed.slack is not None and min(missing, total) > listed.slack
            else:
                is_cut = gap > _LEAST_GAP and missing > gap / 2
            if listed.seconds and is_cut:
                return (
                    f"fragment {number + 1} plays {played[number]:.1f} s, but it is listed with "
                    f"{listed.seconds:.1f} s"
                )
        return None


class _Track:
    """One stream of pictures or sounds: its last packet, and what it plays by fragment."""

    def __init__(self) -> None:
        self.is_empty = True
        self.fragment = 0
        self.time = self.length = 0.0
        self.widest = 0.0  # seconds between two packets within one fragment
        self.played = defaultdict[int, float](float)
        # Seconds without packets after or in a fragment. Infinite: what follows has other times.
        self.gaps = defaultdict[int, float](float)

    def gap(self, number: int) -> float:
        """Return the gap of a fragment, unless the stream has such pauses within fragments."""
        gap = self.gaps.get(number, 0.0)
        return gap if gap > self.widest else 0.0
