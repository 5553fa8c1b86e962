"""`enrollgate web`: the read-only page, until a signal stops it."""

import asyncio
import time

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.common.signals import handle_signals
from enrollgate.database.configured import build_tables
from enrollgate.telemetry.logging import configure_logging
from enrollgate.web.pages import Pages
from enrollgate.web.server import PageUnavailable, serve


def serve_page() -> None:
    """Serve the page. Ends the command with 2 if the port cannot be used."""
    settings = settings_or_fail()
    configure_logging(settings.log_format, settings.log_level)

    async def serve_until_stopped() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        handle_signals(lambda _signal: loop.call_soon_threadsafe(stop.set))
        pages = Pages(
            database,
            build_tables(settings),
            installation=settings.installation,
            work_dir=settings.work_dir,
            monotonic=time.monotonic,
        )
        await serve(pages, settings.web, stop)

    with database_or_fail(settings) as database:
        database.refuse_writes()
        try:
            asyncio.run(serve_until_stopped())
        except PageUnavailable as error:
            fail(error)
