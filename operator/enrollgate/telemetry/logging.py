"""Structured logging: one line per decision, as text for people or as JSON for machines.

structlog writes all lines. Those of the standard library's loggers (SQLAlchemy, Alembic, kopf) look
the same. Every text in a line is redacted, whatever wrote it: statuses, titles and file names come
from outside. A traceback has no local variables; rich and structlog would show them.
"""

import logging
import sys
import threading
from functools import lru_cache
from types import TracebackType

import structlog
from structlog.typing import EventDict, Processor

from enrollgate import version
from enrollgate.common.redaction import redact, redacted_traceback

# Levels of nested lists and objects that are shown; what is deeper is shown as text.
_DEPTH = 4
# The same names stand in every line.
_redact_name = lru_cache(256)(redact)


def configure_logging(log_format: str, level: str, *, installation: str = "") -> None:
    """Write all log lines of this level or higher to standard error, as `text` or `json`.

    Each JSON line says which version and installation wrote it. The value `fields` of a line, a
    mapping, becomes fields of its JSON; the text form omits it, since its message says the same.
    Errors that end the process or a thread, and warnings of Python, become log lines, too.
    """
    shared: list[Processor] = [
        _redact_event,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _build_renderers(log_format, installation)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    # A line that cannot be written must not be printed with its arguments instead.
    logging.raiseExceptions = False
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda crash: _log_uncaught(
        crash.exc_type, crash.exc_value, crash.exc_traceback
    )


def _build_renderers(log_format: str, installation: str) -> list[Processor]:
    """Build what turns an event into a line of this format."""
    program = {"version": version(), "installation": installation}

    def to_json_names(_logger: object, _method: str, event: EventDict) -> EventDict:
        # The names that log stores read:
        # https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
        message, severity = event.pop("event", ""), str(event.pop("level", "info")).upper()
        fields = event.pop("fields", {})
        first = {"timestamp": event.pop("timestamp", None), "severity": severity}
        return {**first, "message": message, **fields, **event, **program}

    def omit_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.pop("fields", None)
        return event

    return (
        [to_json_names, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            omit_fields,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                sort_keys=False,
                # `_redact_event` has written it; rich would show local variables.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, _traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    structlog.get_logger(__name__).critical("this is a bug: please report it", exc_info=error)


def _redact_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Redact every value of a line, and write its exception as a traceback."""
    error = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error and not isinstance(error, BaseException):  # `exc_info=True`
        error = sys.exc_info()[1]
    private = {key: value for key, value in event.items() if key.startswith("_")}
    shown = {
        _redact_name(key): _redacted(value) for key, value in event.items() if key not in private
    }
    if isinstance(error, BaseException):
        shown["exception"] = redacted_traceback(error).rstrip()
    return shown | private


def _redacted(value: object, depth: int = _DEPTH) -> object:
    """Return the value for a log line, all texts in it redacted."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact(value)
        case dict() if depth:
            return {redact(str(key)): _redacted(each, depth - 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth:
            return [_redacted(each, depth - 1) for each in value]
    return redact(repr(value) if isinstance(value, bytes) else str(value))
