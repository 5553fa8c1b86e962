"""Generate docs/reasons.md and .json: `python -m scripts.docs.reasons [--json] [--check FILE]`."""

import json
import sys

from scripts.docs.generated import print_or_check

from enrollgate.commands.reasons import to_json
from enrollgate.domain.reasons import EXPLANATIONS, Reason, exit_code

_HEAD = """# Reasons and exit codes

Every run that does not succeed has exactly one of these reasons. It is in `enrollgate_runs.reason`,
in the log and in `enrollgate status`. *Retry* says whether another attempt can help (up to
`ENROLLGATE_MAX_ATTEMPTS`).

| exit code of `enrollgate work` | meaning |
| --- | --- |
| 0 | the whole course is at its destination |
| 1 | an unexpected error; another attempt follows |
| 2 | the command line or a setting is wrong; no further attempt |
| 69 | a failure that a retry cannot fix; no further attempt |
| 75 | a failure that a retry may fix; another attempt follows |
| killed by a signal | another attempt follows |

| reason | exit code | retry | meaning | remedy |
| --- | --- | --- | --- | --- |
"""
_TAIL = """
This page is generated: `make docs`. [reasons.json](reasons.json) has the same for front ends, as
does `enrollgate reasons --json`. A reason's name never changes; new ones may be added.
"""


def anchor(reason: Reason) -> str:
    """Return the place to which alerts link. GitHub finds anchors in lower case only."""
    return f'<a id="{reason.lower()}"></a>'


def render() -> str:
    """Return the page as Markdown."""
    rows = "".join(
        f"| {anchor(reason)}`{reason}` | {exit_code(reason)} "
        f"| {'yes' if explanation.retry_can_help else 'no'} "
        f"| {explanation.means} | {explanation.remedy} |\n"
        for reason, explanation in EXPLANATIONS.items()
    )
    return _HEAD + rows + _TAIL


if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        page = json.dumps([to_json(reason) for reason in Reason], indent=2) + "\n"
        sys.exit(print_or_check(page, sys.argv[2:]))
    sys.exit(print_or_check(render(), sys.argv[1:]))
