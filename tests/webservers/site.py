"""A course as files below one folder: lectures that play, and feeds that list them."""

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from examples.demo.media import make_lecture

NAME = "courses.example.test"
TITLES = ("Choosing the clay", "Centring", "Opening")
SECRET = "only-for-tests"


@dataclass(frozen=True)
class Request:
    """One line of a server's access log."""

    path: str
    status: int
    method: str
    sent: int
    range: str  # `-` or empty: none
    if_range: str
    encoding: str
    protocol: str


@dataclass(frozen=True)
class CourseFiles:
    """The files of one course. `url` is the server's address, without a slash at its end."""

    folder: Path
    url: str

    def write(self) -> list[bytes]:
        """Write the lectures below `media/`. Returns their contents."""
        contents = [make_lecture(number) for number in range(len(TITLES))]
        (self.folder / "media").mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents, 1):
            (self.folder / "media" / f"{number}.mp4").write_bytes(content)
        return contents

    def write_feed(self, path: str, link: Callable[[int], str]) -> str:
        """Write an RSS feed at this path, whose items link to `link(number)`. Returns its URL."""
        items = "".join(
            f"<item><title>{escape(title)}</title><guid>lecture-{number}</guid>"
            f'<enclosure url="{escape(link(number))}" type="video/mp4"/></item>'
            for number, title in enumerate(TITLES, 1)
        )
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = (
            '<?xml version="1.0"?><rss version="2.0"><channel><title>Ceramics</title>'
            f"{items}</channel></rss>"
        )
        file.write_text(text)
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(text.encode()))
        return f"{self.url}/{path}"

    def signed(self, location: str, number: int, expires: int) -> str:
        """Return a URL that nginx's secure_link accepts until `expires` (seconds since the epoch).

        See https://nginx.org/en/docs/http/ngx_http_secure_link_module.html.
        """
        path = f"/{location}/{number}.mp4"
        digest = hashlib.md5(f"{expires}{path} {SECRET}".encode(), usedforsecurity=False).digest()
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return f"{self.url}{path}?md5={signature}&expires={expires}"


@dataclass(frozen=True)
class WebServer:
    """A running server. Its log has one JSON object a line."""

    log: Path
    port: int
    authority: Path
    files: CourseFiles

    @property
    def host(self) -> str:
        """Host and port, as ENROLLGATE_ALLOWED_HOSTS takes them."""
        return f"{NAME}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order."""
        return [Request(**json.loads(line)) for line in self.log.read_text().splitlines()]
