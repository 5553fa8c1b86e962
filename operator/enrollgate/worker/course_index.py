"""Write what a course contains: `course.json` for programs, `index.html` for people.

In come the items of a run and where they are. Out come two files, which are delivered last, like
any other item. The same course always gives the same bytes, so an index is replaced only if the
course has changed. Nothing in them is a secret: no address of a file on the site, no query of a
URL.
"""

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from enrollgate.common.redaction import redact
from enrollgate.worker.course import Course, Item, ItemKind
from enrollgate.worker.identity import public_url
from enrollgate.worker.run_stats import RunStats

# Of the schema of `course.json`. Fields may be added in one version, but not changed.
VERSION = 1
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}h1,h2{line-height:1.2}ol,ul{list-style:none;padding:0}
ol>li{padding:.4rem 0;border-top:1px solid #ddd}ul{display:inline;font-size:.9em}
ul li{display:inline;margin-left:.7rem}.about{white-space:pre-line;color:#555}
.time{color:#777;font-size:.9em}.missing{color:#a40000}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8ab4f8}
.about,.time{color:#aaa}.missing{color:#ff8a80}}
"""
# A page that we write of a site's text runs no script and sends nothing.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; media-src https:; "
    "base-uri 'none'; form-action 'none'"
)
_NAMES = {
    ItemKind.SUBTITLE: "subtitles",
    ItemKind.ATTACHMENT: "file",
    ItemKind.LINK: "link",
    ItemKind.THUMBNAIL: "picture",
}


def write_index(course: Course, course_url: str, stats: RunStats, folder: Path) -> dict[Item, Path]:
    """Write both files into a folder, and return the items that they are. Raises OSError."""
    content = build_index(course, course_url, stats)
    texts = {
        "course.json": json.dumps(content, ensure_ascii=False, indent=1) + "\n",
        "index.html": render_index(content),
    }
    folder.mkdir(parents=True, exist_ok=True)
    items = dict[Item, Path]()
    for name, text in texts.items():
        file = folder / name
        file.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        item_id = f"enrollgate:{name}"
        items[Item(item_id, 0, file.stem, "", 0, course_url, kind=ItemKind.INDEX)] = file
    return items


def build_index(course: Course, course_url: str, stats: RunStats) -> dict[str, Any]:
    """Return the content of `course.json`; docs/delivered-files.md describes it."""
    entries = [
        (item, {"state": "delivered", "file": there.path, "url": there.url, "bytes": there.size})
        for item, there in stats.present
    ]
    entries += [
        (item, {"state": "failed", "reason": failure.reason, "message": redact(failure.message)})
        for item, failure in stats.failures
    ]
    entries += [
        (item, {"state": "left out", "message": redact(item.left_out)}) for item in stats.left_out
    ]

    def order(entry: tuple[Item, dict[str, Any]]) -> tuple[object, ...]:
        """Return the sort key: a lecture, what belongs to it, then what is left out."""
        item, _ = entry
        apart = bool(item.left_out) and not item.part
        return item.index, apart, item.part, _is_beside(item), item.kind, item.label

    sections = dict[tuple[int, str], list[dict[str, Any]]]()
    for item, state in sorted(entries, key=order):
        listed = {
            "number": "" if item.left_out and not item.part else item.number,
            "kind": item.kind,
            "title": item.title,
            "language": item.label if item.kind is ItemKind.SUBTITLE else "",
            # That of a lecture is not repeated with each of its files.
            "description": "" if _is_beside(item) else redact(item.description, 10_000),
            "duration": item.duration,
        }
        kept = {key: value for key, value in (listed | state).items() if value not in ("", None)}
        sections.setdefault((item.section_index, item.section), []).append(kept)
    return {
        "version": VERSION,
        "title": course.title,
        "description": redact(course.description, 10_000),
        "source": public_url(course_url),
        "sections": [
            {"number": number, "title": title, "items": items}
            for (number, title), items in sections.items()
        ],
    }


def _is_beside(item: Item) -> bool:
    """Return whether the item is a file beside a lecture."""
    return item.kind in (ItemKind.SUBTITLE, ItemKind.THUMBNAIL)


def render_index(content: dict[str, Any]) -> str:
    """Return `index.html` for the content of `course.json`. It needs no other file."""
    body = [f"<h1>{escape(content['title'])}</h1>"]
    if content["description"]:
        body.append(f'<p class="about">{escape(content["description"])}</p>')
    for section in content["sections"]:
        if section["title"]:
            body.append(f"<h2>{escape(section['title'])}</h2>")
        lectures: list[list[dict[str, Any]]] = []
        for item in section["items"]:
            number, first = item.get("number"), lectures[-1][0].get("number") if lectures else None
            if first and number and (number == first or number.startswith(f"{first}.")):
                lectures[-1].append(item)
            else:
                lectures.append([item])
        rows = (_render_lecture(first, rest) for first, *rest in lectures)
        body.append(f"<ol>{''.join(rows)}</ol>")
    return _page(content["title"], "\n".join(body), _STYLE)


def _render_lecture(lecture: dict[str, Any], others: Iterable[dict[str, Any]]) -> str:
    """Return one line of the index: a lecture, its length, and what belongs to it."""
    number = escape(lecture.get("number", ""))
    parts = [f"{number} {_render_link(lecture, lecture['title'])}"]
    if lecture.get("duration"):
        minutes, seconds = divmod(round(lecture["duration"]), 60)
        parts.append(f'<span class="time">{minutes}:{seconds:02d}</span>')
    links = []
    for other in others:
        name = _NAMES.get(other["kind"], other["kind"])
        label = other.get("language") or other["title"]
        text = name if other["kind"] is ItemKind.THUMBNAIL else f"{name}: {label}"
        links.append(f"<li>{_render_link(other, text)}</li>")
    if links:
        parts.append(f"<ul>{''.join(links)}</ul>")
    if lecture.get("description"):
        parts.append(f'<div class="about">{escape(lecture["description"])}</div>')
    return f"<li>{' '.join(parts)}</li>\n"


def _render_link(item: dict[str, Any], text: str) -> str:
    if item["state"] == "delivered":
        address = item.get("url") or quote(item["file"])
        return f'<a href="{escape(address)}">{escape(text)}</a>'
    why = ": ".join(filter(None, (item.get("reason", ""), item.get("message", ""))))
    return f'{escape(text)} <span class="missing">({escape(item["state"])}: {escape(why)})</span>'


def render_article(title: str, body: str) -> str:
    """Return a page with a site's HTML text. Its scripts do not run, and it loads pictures only."""
    return _page(title, f"<h1>{escape(title)}</h1>\n{body}", _STYLE)


def _page(title: str, body: str, style: str) -> str:
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
