"""Copy what `make test-node` recorded (build/transcript.txt) to docs/kubernetes.md."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "kubernetes.md"
BEGIN, END = "**What you see.**", "\n```\n"


def main() -> None:
    """Replace the page's transcript."""
    transcript = (REPOSITORY / "build" / "transcript.txt").read_text(encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    start = page.index("```text\n", page.index(BEGIN)) + len("```text\n")
    end = page.index(END, start)
    PAGE.write_text(page[:start] + transcript.rstrip() + page[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
