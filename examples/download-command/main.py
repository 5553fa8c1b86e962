"""An example of a download command: it downloads the enclosures of an RSS feed.

`python3 main.py -c URL -o FOLDER`. It needs the standard library alone.
"""

import argparse
import http.cookiejar
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree


def main() -> int:
    """Download every enclosure that is not there yet. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--course", required=True, help="the feed's URL")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    options = parser.parse_args()
    jar = http.cookiejar.MozillaCookieJar()
    if cookies := os.environ.get("ENROLLGATE_COOKIES_FILE"):
        jar.load(cookies, ignore_discard=True)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    try:
        with opener.open(options.course) as answer:
            feed = ElementTree.fromstring(answer.read())
        for number, enclosure in enumerate(feed.iterfind("./channel/item/enclosure"), 1):
            target = options.output / f"lecture {number:02d}.mp4"
            if target.exists():
                continue
            part = target.with_suffix(".part")
            with opener.open(enclosure.attrib["url"]) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file)
            part.replace(target)
    except urllib.error.URLError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
