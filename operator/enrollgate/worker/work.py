"""One attempt of one run, from its order to its report.

In comes a `WorkOrder`; out comes a `Report`, whatever happens. Separate from the pipeline, which
only knows items and files.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from enrollgate.common.files import file_md5, write_private
from enrollgate.common.redaction import redact, redacted_traceback
from enrollgate.domain.hosts import check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import Report
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Course, Destination, Fetched
from enrollgate.worker.course_index import write_index
from enrollgate.worker.destinations import build_destination
from enrollgate.worker.disk import scratch_failure
from enrollgate.worker.downloaders import build_downloader
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.pipeline import Pipeline, TransferLimits
from enrollgate.worker.progress import Progress
from enrollgate.worker.run_stats import RunStats, overall_failure


def work(
    order: WorkOrder,
    *,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Report:
    """Download the course, deliver it, and return the report.

    Never raises: every error is in the report.

    `stop` ends the attempt soon and cleanly. `clock` (since the epoch) and `monotonic` give
    seconds.
    """
    start = monotonic()
    progress = Progress(
        path=order.progress_path,
        clock=clock,
        attempt=order.attempt,
        attempts=order.max_attempts,
    )
    try:
        report = _attempt(order, progress, stop, monotonic)
    except Failure as failure:
        report = _build_report(RunStats(fatal=failure))
    except OSError as error:
        report = _build_report(RunStats(fatal=scratch_failure(error)))
    except MemoryError:
        report = Report(Reason.OOM_KILLED, "the worker needed more memory than it may take")
    except Exception as error:  # noqa: BLE001 -- a bug, too, must end in a report
        sys.stderr.write(redacted_traceback(error))
        report = Report(Reason.WORKER_CRASHED, f"{type(error).__name__}: {redact(str(error), 300)}")
    result = "complete" if report.reason is None else f"{report.reason}: {redact(report.message)}"
    progress.end(f"{order.attempt_tag} task {order.task_id}: {result}")
    return replace(report, seconds=round(monotonic() - start, 3), attempt=order.attempt)


def _attempt(
    order: WorkOrder,
    progress: Progress,
    stop: threading.Event,
    monotonic: Callable[[], float],
) -> Report:
    settings = order.settings
    check_url(order.course_url, settings.allowed_hosts)
    order.scratch_dir.mkdir(parents=True, exist_ok=True)
    destination = build_destination(order, stop)
    downloader = build_downloader(order, stop, monotonic)
    download_bandwidth, upload_bandwidth = (
        Bandwidth(rate, monotonic=time.monotonic, sleep=stop.wait)
        for rate in (settings.download_rate, settings.upload_rate)
    )
    try:
        course = downloader.open()
        destination.open(course.title)
        progress.begin(course.title, course.total, order.attempt_tag, destination.location[1])
        pipeline = Pipeline(
            downloader,
            destination,
            folder=order.scratch_dir / "items",
            scratch_limit=settings.scratch_limit,
            limits=TransferLimits(
                settings.downloads, settings.uploads, download_bandwidth, upload_bandwidth
            ),
            progress=progress,
            stop=stop,
        )
        stats = pipeline.run(course)
        if settings.incomplete == "accept":
            is_last = order.attempt >= order.max_attempts
            stats.accept(settings.incomplete_reasons, is_last_attempt=is_last)
        if settings.course_index and stats.fatal is None and stats.present:
            _deliver_index(order, course, destination, stats)
        if stats.fatal is None:
            try:
                destination.finish(stats.left_out_items())
            except Failure as failure:
                stats.set_fatal(failure)
    finally:
        try:
            downloader.close()
        except Exception as error:  # noqa: BLE001 -- closing must not replace the result of the run
            reason = f"{type(error).__name__}: {redact(str(error), 300)}"
            sys.stderr.write(f"closing the downloader: {reason}\n")
    return _build_report(stats, *destination.location)


def _deliver_index(
    order: WorkOrder, course: Course, destination: Destination, stats: RunStats
) -> None:
    """Write the course's index and deliver what has changed of it. A failure is one of an item."""
    folder = order.scratch_dir / "index"
    for item, file in write_index(course, order.course_url, stats, folder).items():
        try:
            found = destination.find(item)
            if found is None or found.md5 != file_md5(file):
                destination.deliver(item, Fetched(file), lambda _count: None)
        except Failure as failure:
            stats.failures.append((item, failure))


def _build_report(stats: RunStats, destination_id: str = "", destination_url: str = "") -> Report:
    failure = overall_failure(stats)
    done = f"{stats.delivered} items delivered, {stats.skipped} were there already"
    if stats.left_out:
        done += f", {len(stats.left_out)} items left out"
    return Report(
        reason=failure.reason if failure else None,
        message=failure.message if failure else done,
        items_delivered=stats.delivered,
        items_skipped=stats.skipped,
        items_failed=len(stats.failures),
        bytes_delivered=stats.bytes_delivered,
        destination_id=destination_id,
        destination_url=destination_url,
        failed_items=stats.failed_items(),
        items_left_out=len(stats.left_out),
        left_out_items=stats.left_out_items(),
        remedy=failure.remedy if failure else "",
        retry_after=failure.retry_after if failure else None,
    )


def write_report(path: Path, report: Report) -> None:
    """Write the report as a whole or not at all, or in place where a file cannot be replaced.

    Raises OSError.

    A Kubernetes termination message is a mounted file, which cannot be replaced. A pipe or a device
    must not be.
    """
    text = report.encode()
    if path.is_file() or not path.exists():
        try:
            write_private(path, text)
        except OSError:
            pass  # write it in place
        else:
            return
    path.write_text(text, encoding="utf-8")
