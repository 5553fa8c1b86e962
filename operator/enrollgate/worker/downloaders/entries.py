"""Name the entries of yt-dlp's lists, so that each has the same name in every attempt.

What goes in: an entry, and the extractor that listed it. What comes out: the names that it could
have, the most stable first. A site's own id is the best one. The generic extractor has none: it
numbers the videos of a page, and makes ids of URLs with their signatures. There the URL counts.
"""

import re
from typing import Any

from yt_dlp.utils import unsmuggle_url

from enrollgate.worker.identity import Candidates, digest, unsigned

Entry = dict[str, Any]

# These extractors make ids of a page's URL and of positions in the page.
_WITHOUT_IDS = frozenset({"Generic", "HTML5MediaEmbed", "QuotedHTML"})
# An id that is short and plain is kept readable.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def candidates(entry: Entry, listed_by: str, prefix: str = "") -> Candidates:
    """Return the names that an entry could have. `listed_by` is the key of the list's extractor.

    None of them has a secret in it. `prefix` is the name of what the list is a part of.
    """
    url, smuggled = unsmuggle(str(entry.get("url") or ""))
    extractor = str(entry.get("ie_key") or entry.get("extractor_key") or listed_by)
    # Of streams only the playlists that the page names.
    media = [each.get("manifest_url") or each.get("url") for each in entry.get("formats") or ()]
    urls = sorted(str(each) for each in media if each) or [url or str(entry.get("title"))]
    stems = list[str]()
    if extractor not in _WITHOUT_IDS and entry.get("id"):
        own_id = str(entry["id"])
        plain = _PLAIN_ID.fullmatch(own_id)
        stems.append(f"{extractor}:{own_id if plain else digest(unsigned(own_id))}")
    guid = smuggled.get("force_videoid")
    # With `to_generic` it is the id of a page, and not of a feed's item.
    if guid and not smuggled.get("to_generic"):
        stems.append(f"guid:{digest(unsigned(str(guid)))}")
    stems.append(f"url:{digest(' '.join(map(unsigned, urls)))}")
    stems.append(f"address:{digest(' '.join(urls))}")
    return Candidates(tuple(prefix + stem for stem in stems))


def unsmuggle(url: str) -> tuple[str, Entry]:
    """Return the URL without the data that yt-dlp hides in it for itself, and that data."""
    try:
        plain, hidden = unsmuggle_url(url, {})
    except (LookupError, ValueError):  # The site's own text only looks like yt-dlp's data.
        return url, {}
    return plain, hidden if isinstance(hidden, dict) else {}
