"""nginx in front of the site: TLS, gzip and names for the pages, signed URLs for the files.

It listens on port 443 of a loopback address of its own, because the extractor's URLs have no port.
"""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.control_plane.certificates import Authority
from tests.udemy_site.course import write_files
from tests.udemy_site.server import SECRET, UdemyServer
from tests.webservers.nginx import NGINX_HEAD, run_nginx

_FILE_HOSTS = ("mp4-c", "hls-c", "vtt-c", "att-c", "img-c")
NAMES = ("www.udemy.com", *(f"{host}.udemycdn.com" for host in _FILE_HOSTS))
_CONFIG = (
    NGINX_HEAD
    + """
    types {{ video/mp4 mp4; text/vtt vtt; application/pdf pdf; image/jpeg jpg;
             application/vnd.apple.mpegurl m3u8; video/mp2t ts; application/zip zip; }}
    log_format requests escape=json '{{"host":"$host","path":"$request_uri","status":$status,'
        '"method":"$request_method","sent":$body_bytes_sent,'
        '"encoding":"$sent_http_content_encoding"}}';
    access_log {folder}/access.log requests;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    server {{
        listen {address}:443 ssl;
        server_name www.udemy.com;
        gzip on;
        gzip_min_length 1;
        gzip_proxied any;
        gzip_types application/json;
        location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; }}
    }}
    server {{
        listen {address}:443 ssl;
        server_name {file_hosts};
        root {root};
        location / {{
            secure_link $arg_md5,$arg_expires;
            secure_link_md5 "$secure_link_expires$uri {secret}";
            if ($secure_link = "") {{ return 403; }}
            if ($secure_link = "0") {{ return 403; }}
        }}
        location ~ ^/hls/(?<sig>[^/]+)/(?<exp>[0-9]+)/(?<rest>.+)$ {{
            secure_link $sig,$exp;
            secure_link_md5 "$secure_link_expires/hls/ {secret}";
            if ($secure_link = "") {{ return 403; }}
            if ($secure_link = "0") {{ return 403; }}
            alias {root}/hls/$rest;
        }}
    }}
}}
"""
)


@dataclass(frozen=True)
class Request:
    """One line of the access log."""

    host: str
    path: str
    status: int
    method: str
    sent: int
    encoding: str


@dataclass(frozen=True)
class UdemySite:
    """The running site."""

    folder: Path
    address: str
    authority: Path
    server: UdemyServer
    files: dict[str, bytes]

    @property
    def hosts_line(self) -> str:
        """The line of a hosts file that leads all of Udemy's names to this site."""
        return f"{self.address} {' '.join(NAMES)}\n"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [Request(**json.loads(line)) for line in lines]


@contextmanager
def start_udemy(folder: Path) -> Iterator[UdemySite]:
    """Run the site for this block. Its files and logs are below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    pair = authority.server(names=NAMES)
    root = folder / "root"
    files = write_files(root)
    address = f"127.{random.randrange(16, 250)}.{random.randrange(250)}.{random.randrange(1, 250)}"
    with UdemyServer() as server:
        with run_nginx(
            folder,
            _CONFIG,
            root=root,
            address=address,
            port=server.port,
            secret=SECRET,
            file_hosts=" ".join(NAMES[1:]),
            certificate=pair.certificate,
            key=pair.key,
        ):
            yield UdemySite(folder, address, authority.certificate, server, files)
