"""`enrollgate reasons`: what each reason means and what to do, for people and for front ends."""

import json

import typer

from enrollgate.commands.console import fail
from enrollgate.commands.layout import paragraph
from enrollgate.domain.reasons import EXPLANATIONS, Reason, exit_code, explain


def print_reasons(name: str | None, *, as_json: bool) -> None:
    """Print all reasons, or the one of this name. Ends with 2 if there is none of this name."""
    if name is not None and name not in set(Reason):
        fail(f"there is no reason {name!r}: `enrollgate reasons` lists all reasons")
    chosen = list(Reason) if name is None else [Reason(name)]
    if as_json:
        typer.echo(json.dumps([to_json(reason) for reason in chosen], indent=2))
        return
    for reason in chosen:
        explanation = explain(reason)
        retry = "a retry can help" if explanation.retry_can_help else "a retry cannot help"
        typer.echo(f"{reason} (exit code {exit_code(reason)}, {retry})")
        typer.echo("\n".join(paragraph("means", explanation.means)))
        typer.echo("\n".join(paragraph("remedy", explanation.remedy)))


def to_json(reason: Reason) -> dict[str, object]:
    """Return a reason as plain data."""
    explanation = EXPLANATIONS[reason]
    return {
        "reason": reason.value,
        "means": explanation.means,
        "remedy": explanation.remedy,
        "retry_can_help": explanation.retry_can_help,
        "exit_code": exit_code(reason),
    }
