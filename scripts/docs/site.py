"""Build the documentation site: `python -m scripts.docs.site [--publish FOLDER VERSION]`.

The pages stay where GitHub shows them: docs/, and those in `ELSEWHERE`. They are copied to
build/site/pages with their links changed: a link to another page leads to it within the site, and
a link to any other file of the repository leads to GitHub. zensical.toml has the navigation. A
link or an anchor that leads nowhere is an error, and so is a page that the navigation lacks.

`--publish` also copies the site to FOLDER/VERSION, for a web server, and lists it there for the
menu of versions. The newest release is the one that FOLDER itself leads to.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from packaging.version import InvalidVersion, Version

REPOSITORY = Path(__file__).parents[2]
GITHUB = "https://github.com/enrollgate/enrollgate"
# Pages that are not in docs/, and their place in the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "charts/enrollgate/README.md": "chart.md",
    "examples/node-writer/README.md": "node-writer.md",
    "manifests/README.md": "manifests.md",
}
# The list of decisions, which is made here. GitHub lists the folder itself.
DECISIONS = "decisions/README.md"
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s]+)(?=\))")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_CODE = re.compile(r"`[^`]+`")
_FENCE = re.compile(r"\s*(```|~~~)")


class SiteError(Exception):
    """Report what is wrong with a page or the navigation: the page, the link and the remedy."""


def build(repository: Path, ref: str = "main") -> Path:
    """Build the site of a repository and return its folder. Links to files lead to Git's `ref`.

    Raises SiteError.
    """
    folder = repository / "build" / "site"
    shutil.rmtree(folder, ignore_errors=True)
    pages = copy_pages(repository, folder / "pages", ref)
    listed = set(
        _listed(tomllib.loads((repository / "zensical.toml").read_text())["project"]["nav"])
    )
    decisions = {page for page in pages if page.startswith("decisions/")} - {DECISIONS}
    if missing := pages - decisions - listed:
        raise SiteError(f"zensical.toml: add {', '.join(sorted(missing))} to `nav`")
    tool = subprocess.run(
        [REPOSITORY / "scripts" / "tool-venv", "docs"], capture_output=True, text=True, check=False
    )
    if tool.returncode:
        raise SiteError(tool.stderr.strip())
    # Zensical empties `.cache` beside its configuration: that must not be the repository's.
    shutil.copy(repository / "zensical.toml", folder)
    done = subprocess.run(
        [f"{tool.stdout.strip()}/zensical", "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        printed = _COLOUR.sub("", done.stdout + done.stderr)
        raise SiteError(printed.partition("\nTraceback ")[0].strip())
    return folder / "html"


def copy_pages(repository: Path, folder: Path, ref: str) -> set[str]:
    """Copy all pages with their links changed, and all images. Returns the pages' places.

    Raises SiteError.
    """
    docs = repository / "docs"
    places = {
        f"docs/{path.relative_to(docs)}": f"{path.relative_to(docs)}" for path in docs.rglob("*.md")
    }
    places |= ELSEWHERE
    for source, place in places.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (repository / source).read_text(encoding="utf-8")
        links = places | {"docs/decisions": DECISIONS}
        target.write_text(_change_links(text, source, links, repository, ref), encoding="utf-8")
    for path in docs.rglob("*"):
        if path.is_file() and path.suffix != ".md":
            target = folder / path.relative_to(docs)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    decisions = sorted((folder / "decisions").glob("*.md"))
    titles = [
        path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in decisions
    ]
    lines = [f"- [{title}]({path.name})\n" for title, path in zip(titles, decisions, strict=True)]
    (folder / DECISIONS).write_text(
        "# Decisions\n\nWhy it is built like this.\n\n" + "".join(lines)
    )
    return {*places.values(), DECISIONS}


def _change_links(
    text: str, source: str, places: dict[str, str], repository: Path, ref: str
) -> str:
    """Return a page's text with the links that fit its place in the site. Raises SiteError."""

    def change(match: re.Match[str]) -> str:
        target, hash_mark, anchor = match["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match["target"]
        path = normpath(f"{PurePosixPath(source).parent}/{target}")
        if path in places:
            start = PurePosixPath(places[source]).parent.as_posix()
            return relpath(places[path], start) + hash_mark + anchor
        if path.startswith("docs/") and (repository / path).is_file():
            return match["target"]  # an image or a data file, which is copied with the pages
        if not (repository / path).exists():
            raise SiteError(f"{source}: the link to {target} leads nowhere: correct it")
        kind = "tree" if (repository / path).is_dir() else "blob"
        return f"{GITHUB}/{kind}/{ref}/{path}{hash_mark}{anchor}"

    is_code = False
    lines = []
    for line in text.splitlines(keepends=True):
        if _FENCE.match(line):
            is_code = not is_code
        if is_code:
            lines.append(line)
            continue
        # In a table, GitHub wants `\\|` also within code, where Python's Markdown would show it.
        linked = _LINK.sub(change, line)
        lines.append(_CODE.sub(lambda code: code[0].replace("\\|", "|"), linked))
    return "".join(lines)


def _listed(navigation: list[object]) -> Iterator[str]:
    """Yield the pages of a navigation, of its sections, too."""
    for entry in navigation:
        if isinstance(entry, dict):
            yield from _listed(list(entry.values()))
        elif isinstance(entry, list):
            yield from _listed(entry)
        else:
            yield str(entry)


def publish(html: Path, folder: Path, version: str) -> None:
    """Copy the site to `folder`/`version` and list it in versions.json, newest release first.

    The theme reads that file, which has mike's format (https://github.com/jimporter/mike).
    """
    shutil.rmtree(folder / version, ignore_errors=True)
    shutil.copytree(html, folder / version)
    known = {path.name for path in folder.iterdir() if (path / "index.html").is_file()}

    def age(name: str) -> tuple[bool, Version]:
        try:
            return True, Version(name)
        except InvalidVersion:  # `main`
            return False, Version("0")

    names = sorted(known, key=age, reverse=True)
    entries = [
        {"version": name, "title": name, "aliases": ["latest"] if name == names[0] else []}
        for name in names
    ]
    (folder / "versions.json").write_text(json.dumps(entries, indent=2) + "\n")
    (folder / "index.html").write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={names[0]}/">'
        f'<a href="{names[0]}/">Enrollgate {names[0]}</a>\n'
    )


def main(arguments: list[str]) -> int:
    """Build the site, and publish it if the arguments say so. Returns the exit code."""
    is_published = arguments[:1] == ["--publish"] and len(arguments) == 3
    if arguments and not is_published:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    version = arguments[2] if is_published else "main"
    try:
        html = build(REPOSITORY, "main" if version == "main" else f"v{version}")
    except SiteError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if is_published:
        publish(html, Path(arguments[1]), version)
    print(f"{html.relative_to(REPOSITORY)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
