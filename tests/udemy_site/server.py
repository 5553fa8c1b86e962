"""Udemy's pages and API as a scriptable server. nginx is in front of it."""

import base64
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.udemy_site.course import ARTICLE, COURSE_ID, FILES, LECTURES, LINK, TITLE, Lecture

SECRET = "only-for-tests"
_API = "/api-2.0"
_CAPTCHA = (
    b"<html><head><title>Access to this page has been denied.</title></head><body>"
    b"<h1>Please verify you are a human</h1><div id='px-captcha'></div></body></html>"
)
_OFFER = (
    f'<html><body data-clp-course-id="{COURSE_ID}"><h1>Pottery</h1>'
    f'<a href="/course/subscribe/?courseId={COURSE_ID}">Enroll now</a>'
    f'<a href="https://www.udemy.com/payment/checkout/course/{COURSE_ID}/">Buy now</a>'
    f'<a href="/cart/">Cart</a></body></html>'
)
# The page of a student. The id is in the data of its application, as HTML text.
_COURSE_PAGE = (
    "<html><body id='udemy'><header><a href='/cart/'>Cart</a></header>"
    f'<div data-module-args="{{&quot;courseId&quot;:{COURSE_ID}}}"></div></body></html>'
)


class UdemyServer:
    """Answers as Udemy does. A test changes the attributes to get other answers."""

    def __init__(self) -> None:
        self.enrolled = True
        self.captcha = False
        self.token = "valid-token"
        # Ids of lectures that the curriculum lists, and of those that answer 403.
        self.lectures = [11, 12, 13, 21, 22]
        self.refused = set[int]()
        # Called with each path; it returns the status of a fault, or None.
        self.fault: Callable[[str], int | None] = lambda _path: None
        # Whether a signed URL is already expired when it is given out.
        self.stale: Callable[[str], bool] = lambda _name: False
        self.paths: list[str] = []
        self._serial = itertools.count(int(time.time()) + 3600)
        server = self

        class Handler(_Handler):
            site = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: dict[str, list[str]], token: str) -> tuple[int, Any]:
        """Return the status and the page (str, bytes) or object of a request."""
        parts = [each for each in path.split("/") if each]
        if self.captcha:
            return 403, _CAPTCHA
        if not path.startswith(_API):
            return 200, _COURSE_PAGE if self.enrolled and token else _OFFER
        if token and token != self.token:
            return 401, {"detail": "Invalid token."}
        if not self.enrolled or not token:
            return 403, {"detail": "You do not have permission to perform this action."}
        match parts[1:]:
            case ["courses", _]:
                return 200, {"_class": "course", "id": COURSE_ID, "title": TITLE} | {
                    "description": "<p>From clay to cup.</p>"
                }
            case ["courses", _, "cached-subscriber-curriculum-items"]:
                return 200, self._curriculum(query)
            case ["users", "me", "subscribed-courses", _, "lectures", lecture]:
                if int(lecture) in self.refused:
                    return 403, {"detail": "You do not have permission to perform this action."}
                return 200, self._lecture(LECTURES[int(lecture)])
            case ["users", "me", "subscribed-courses", *_, "supplementary-assets", asset]:
                return 200, self._asset(int(asset))
            case ["assets", asset]:
                return 200, self._asset(int(asset))
        return 404, {"detail": "Not found."}

    def _curriculum(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return one page of the curriculum, three elements long whatever the page size is."""
        chapters = {1: "Getting started", 2: "Glazing <& firing>"}
        elements: list[dict[str, Any]] = []
        for number, title in chapters.items():
            elements.append({"_class": "chapter", "id": number, "title": title})
            elements[-1]["object_index"] = number
            elements += [_listed(LECTURES[each]) for each in self.lectures if each // 10 == number]
            quiz = {"_class": "quiz", "id": 900 + number, "title": f"Quiz {number}"}
            elements.append(quiz | {"type": "simple-quiz"})
        draft = {"_class": "lecture", "id": 99, "title": "Draft", "is_published": False}
        elements.append(draft)
        page = int(query.get("page", ["1"])[0])
        shown = elements[3 * (page - 1) : 3 * page]
        more = len(elements) > 3 * page
        url = f"https://www.udemy.com{_API}/courses/{COURSE_ID}/?page={page + 1}"
        return {"count": len(elements), "next": url if more else None, "results": shown}

    def _lecture(self, lecture: Lecture) -> dict[str, Any]:
        asset: dict[str, Any] = {
            "_class": "asset",
            "id": lecture.id + 1000,
            "asset_type": lecture.asset_type,
            "time_estimation": 61,
        }
        if lecture.asset_type != "Video":
            asset |= self._asset(lecture.id + 1000)
        sources = [
            {"type": "video/mp4", "label": label, "src": self.sign("mp4-c", name)}
            for label, name in lecture.mp4.items()
        ]
        if lecture.hls:
            address = self._sign_folder(f"{lecture.hls}/index.m3u8")
            source = {"type": "application/x-mpegURL", "label": "auto", "src": address}
            sources.append(source)
        if lecture.drm:
            source = {"type": "application/dash+xml", "src": self.sign("mp4-c", "x.mpd")}
            asset |= {"media_license_token": "secret-license", "course_is_drmed": True}
            sources = [source | {"label": "auto"}]
        asset["media_sources"] = sources
        asset["thumbnail_url"] = self.sign("img-c", "thumbnail.jpg")
        # Older courses have `locale`, newer ones `locale_id`.
        asset["captions"] = [
            {
                "_class": "caption",
                "title": name,
                "status": 1,
                "source": source,
                "url": self.sign("vtt-c", name),
            }
            | (
                {"locale": {"_class": "locale", "locale": language}}
                if lecture.id == 11
                else {"locale_id": language}
            )
            for language, (name, source) in lecture.captions.items()
        ]
        return {
            "_class": "lecture",
            "id": lecture.id,
            "title": lecture.title,
            "description": lecture.description,
            "asset": asset,
        }

    def _asset(self, asset_id: int) -> dict[str, Any]:
        if asset_id == 1013:
            return {"_class": "asset", "id": asset_id, "asset_type": "Article", "body": ARTICLE}
        kind, name = FILES[asset_id]
        asset: dict[str, Any] = {"_class": "asset", "id": asset_id, "asset_type": kind}
        if kind == "ExternalLink":
            return asset | {"title": name, "external_url": LINK, "download_urls": None}
        urls = {kind: [{"label": "download", "file": self.sign("att-c", name)}]}
        return asset | {"title": name, "filename": name, "download_urls": urls}

    def sign(self, host: str, name: str) -> str:
        """Return a URL of a file that nginx's secure_link accepts; each call another one."""
        path, expires = f"/{name}", self._expiry(name)
        signature = _sign(f"{expires}{path} {SECRET}")
        return f"https://{host}.udemycdn.com{path}?md5={signature}&expires={expires}"

    def _sign_folder(self, name: str) -> str:
        """The same for a folder: segments have no query, so the signature is in the path."""
        expires = self._expiry(name)
        signature = _sign(f"{expires}/hls/ {SECRET}")
        return f"https://hls-c.udemycdn.com/hls/{signature}/{expires}/{name}"

    def _expiry(self, name: str) -> int:
        return 1_000_000_000 if self.stale(name) else next(self._serial)


def _sign(text: str) -> str:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _listed(lecture: Lecture) -> dict[str, Any]:
    """Return a lecture as the curriculum lists it."""
    asset = {"_class": "asset", "id": lecture.id + 1000, "asset_type": lecture.asset_type}
    supplements = []
    for asset_id in lecture.attachments:
        kind, name = FILES[asset_id]
        supplement = {"_class": "asset", "id": asset_id, "asset_type": kind, "title": name}
        if kind != "ExternalLink":
            supplement["filename"] = name
        supplements.append(supplement)
    return {
        "_class": "lecture",
        "id": lecture.id,
        "title": lecture.title,
        "description": lecture.description,
        "object_index": lecture.id,
        "is_published": True,
        "asset": asset | {"time_estimation": 61},
        "supplementary_assets": supplements,
    }


class _Handler(BaseHTTPRequestHandler):
    site: UdemyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.site.paths.append(self.path)
        token = self.headers.get("X-Udemy-Bearer-Token", "")
        if not parts.path.startswith(_API):
            token = "cookie" if "access_token=" in self.headers.get("Cookie", "") else ""
        status, content = self.site.answer(parts.path, parse_qs(parts.query), token)
        if fault := self.site.fault(parts.path):
            status, content = fault, "<html><body>Please try again later.</body></html>"
        kind = "text/html"
        if isinstance(content, dict):
            kind, content = "application/json", json.dumps(content)
        body = content if isinstance(content, bytes) else content.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.site.paths.append(f"POST {self.path}")
        self.send_error(405)

    def log_message(self, *_: object) -> None: ...
