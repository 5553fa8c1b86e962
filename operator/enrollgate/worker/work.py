"""One try of one run, from order to report."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from enrollgate.common.redaction import redact, redacted_traceback
from enrollgate.domain.hosts import check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import Report
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Downloader
from enrollgate.worker.destinations import build_destination
from enrollgate.worker.disk import scratch_failure
from enrollgate.worker.downloaders import build_downloader
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.pipeline import Pipeline, RunStats, TransferLimits, failed_items, verdict
from enrollgate.worker.progress import Progress


def work(
    order: WorkOrder,
    *,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Report:
    """Downloads the course and delivers it. Never raises: whatever happens is in the report.

    `stop` ends it soon and cleanly; `clock` and `monotonic` give seconds.
    """
    start = monotonic()
    progress = Progress(path=order.progress_path, clock=clock)
    try:
        report = _attempt(order, progress, stop)
    except Failure as failure:
        report = Report(
            failure.reason,
            failure.message,
            remedy=failure.remedy,
            retry_after=failure.retry_after,
        )
    except OSError as error:
        of_scratch = scratch_failure(error)
        report = Report(of_scratch.reason, of_scratch.message)
    except Exception as error:  # noqa: BLE001 -- the run is over: how it went is not for the closing to say
        sys.stderr.write(redacted_traceback())
        report = Report(Reason.WORKER_CRASHED, f"{type(error).__name__}: {redact(str(error), 300)}")
    outcome = "complete" if report.reason is None else f"{report.reason}: {redact(report.message)}"
    progress.end(f"{order.attempt_tag} task {order.task_id}: {outcome}")
    return _timed(report, monotonic() - start)


def _timed(report: Report, seconds: float) -> Report:
    return replace(report, seconds=round(seconds, 3))


def _attempt(order: WorkOrder, progress: Progress, stop: threading.Event) -> Report:
    check_url(order.course_url, order.settings.allowed_hosts)
    order.scratch_dir.mkdir(parents=True, exist_ok=True)
    destination = build_destination(order, stop)
    downloader = build_downloader(order, stop)
    try:
        course = downloader.open()
        destination.open(course.title)
        progress.begin(course.title, course.total, order.attempt_tag)
        pipeline = Pipeline(
            downloader,
            destination,
            folder=order.scratch_dir / "items",
            scratch_limit=order.settings.scratch_limit,
            lanes=_lanes(order, stop),
            progress=progress,
            stop=stop,
        )
        try:
            tally = pipeline.run(course)
        except Failure as failure:  # the listing broke off: what was delivered until then stays
            tally = pipeline.tally
            tally.fatal = failure
        except OSError as error:
            tally = pipeline.tally
            tally.fatal = tally.fatal or scratch_failure(error)
    finally:
        _close(downloader)
    return _report(tally, destination.location)


def _close(downloader: Downloader) -> None:
    try:
        downloader.close()
    except Exception as error:  # noqa: BLE001 -- the run is over: how it went is not for the closing to say
        sys.stderr.write(
            f"closing the downloader: {type(error).__name__}: {redact(str(error), 300)}\n"
        )


def _lanes(order: WorkOrder, stop: threading.Event) -> TransferLimits:
    down, up = (
        Bandwidth(rate, monotonic=time.monotonic, sleep=stop.wait)
        for rate in (order.settings.download_rate, order.settings.upload_rate)
    )
    return TransferLimits(order.settings.downloads, order.settings.uploads, down, up)


def _report(tally: RunStats, location: tuple[str, str]) -> Report:
    failure = verdict(tally)
    done = f"{tally.delivered} items delivered, {tally.skipped} were there already"
    return Report(
        reason=failure.reason if failure else None,
        message=failure.message if failure else done,
        items_delivered=tally.delivered,
        items_skipped=tally.skipped,
        items_failed=len(tally.failures),
        bytes_delivered=tally.bytes_delivered,
        destination_id=location[0],
        destination_url=location[1],
        failed_items=failed_items(tally),
        remedy=failure.remedy if failure else "",
        retry_after=failure.retry_after if failure else None,
    )


def write_report(path: Path, report: Report) -> None:
    """Writes the report in one piece. What cannot be renamed over (a Kubernetes termination message is a mounted file) or is no
    regular file is written in place.
    """
    text = report.encode()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    part = path.with_name(path.name + ".new")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
