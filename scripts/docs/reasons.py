"""Renders docs/reasons.md from the closed list of reasons: `python -m scripts.docs.reasons [--check FILE]`."""

import sys

from scripts.docs.generated import print_or_check

from enrollgate.domain.reasons import EXPLANATIONS, exit_code

_HEAD = """# Reasons and exit codes

Every run that does not succeed has exactly one of these reasons, in `enrollgate_runs.reason`, in the log and in
`enrollgate status`. *Retry* says whether the worker's next try (up to `ENROLLGATE_MAX_ATTEMPTS`) can help.

| exit code of `enrollgate work` | means |
| --- | --- |
| 0 | the course is at its destination, complete |
| 1 | an error nobody foresaw; tried again |
| 2 | the command line or a setting is wrong; not tried again |
| 69 | a failure that a retry cannot mend; not tried again |
| 75 | a failure that a retry may mend; tried again |
| death by a signal | tried again |

| reason | exit code | retry | means | what to do |
| --- | --- | --- | --- | --- |
"""
_TAIL = """
This page is generated: `make docs`.
"""


def render() -> str:
    """The page as Markdown."""
    rows = "".join(
        f"| `{reason}` | {exit_code(reason)} | {'yes' if known.retry_can_help else 'no'} | {known.means} | {known.remedy} |\n"
        for reason, known in EXPLANATIONS.items()
    )
    return _HEAD + rows + _TAIL


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
