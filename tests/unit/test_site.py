"""The documentation site, built from this repository and from broken copies of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scripts.docs.site import SiteError, build, publish
from tests.conftest import absent
from tests.repository import REPOSITORY

pytestmark = pytest.mark.slow

_RESOURCE = re.compile(r"<(?:link|script|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
# It names the page's own address.
_CANONICAL = re.compile(r"<link rel=\"?canonical")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of the repository's pages beside links to everything else."""
    script = REPOSITORY / "scripts" / "tool-venv"
    done = subprocess.run([script, "docs"], capture_output=True, text=True, check=False)
    if done.returncode:
        absent("Zensical", done.stderr)
    for path in REPOSITORY.iterdir():
        if path.name not in ("docs", "build", ".cache", ".git"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    return tmp_path


def test_site_has_each_page_and_loads_nothing_from_other_hosts(repository: Path) -> None:
    cache = repository / ".cache" / "control-plane"
    cache.parent.mkdir()
    cache.touch()
    html = build(repository)
    for page in (repository / "docs").glob("*.md"):
        name = "index" if page.stem == "README" else page.stem
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        assert text.count("<h1") == 1, page
        loaded = [each for each in _RESOURCE.findall(text) if not _CANONICAL.match(each)]
        assert not loaded and 'data-md-component="source"' not in text, page
        assert "\\|" not in text, page
    assert "github.com/enrollgate/enrollgate/blob/main/examples/systemd/enrollgate.service" in (
        html / "local.html"
    ).read_text(encoding="utf-8")
    assert "avoid-deadlocks" in (html / "decisions" / "index.html").read_text(encoding="utf-8")
    assert "EnrollmentTimeout" in (html / "search.json").read_text(encoding="utf-8")
    assert cache.exists(), "the tools that others built"


@pytest.mark.parametrize(
    ("link", "named"),
    [
        ("[a file](../examples/none.md)", "../examples/none.md"),
        ("[a page](none.md)", "none.md"),
        ("[an anchor](../charts/enrollgate/README.md#none)", "chart.md#none"),
        ("![a picture](images/none.png)", "images/none.png"),
    ],
)
def test_build_with_a_link_that_leads_nowhere_fails(
    repository: Path, link: str, named: str
) -> None:
    page = repository / "docs" / "faq.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{link}\n", encoding="utf-8")
    with pytest.raises(SiteError) as caught:
        build(repository)
    assert named in str(caught.value) and "faq.md" in str(caught.value)


def test_build_with_a_page_that_the_navigation_lacks_fails(repository: Path) -> None:
    (repository / "docs" / "new.md").write_text("# New\n")
    with pytest.raises(SiteError, match=r"add new\.md to `nav`"):
        build(repository)


def test_publish_lists_versions_with_the_newest_release_first(tmp_path: Path) -> None:
    html, folder = tmp_path / "html", tmp_path / "pages"
    html.mkdir()
    (html / "index.html").write_text("old")
    for version in ("0.9.0", "main", "0.10.0", "0.9.1"):
        publish(html, folder, version)
    (html / "index.html").write_text("new")
    publish(html, folder, "0.9.1")

    listed = json.loads((folder / "versions.json").read_text())
    assert [each["version"] for each in listed] == ["0.10.0", "0.9.1", "0.9.0", "main"]
    assert [each["aliases"] for each in listed] == [["latest"], [], [], []]
    assert 'url=0.10.0/"' in (folder / "index.html").read_text()
    assert (folder / "0.9.1" / "index.html").read_text() == "new"
    assert (folder / "0.9.0" / "index.html").read_text() == "old"
