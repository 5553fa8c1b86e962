"""`enrollgate run`: the operator, on this machine or in a cluster, until a signal stops it."""

import structlog

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.control.loop import LoopFailed
from enrollgate.control.wiring import Misconfigured, run_operator
from enrollgate.database import DatabaseMisconfigured
from enrollgate.telemetry.http import PortUnavailable
from enrollgate.telemetry.logging import configure_logging

_LOG = structlog.get_logger(__name__)


def run() -> None:
    """Run the operator. Ends the command with 2 if something is misconfigured, 1 if it crashes."""
    settings = settings_or_fail()
    installation = settings.installation
    configure_logging(settings.log_format, settings.log_level, installation=installation)
    if settings.allowed_hosts and settings.download_command:
        _LOG.warning(
            "ENROLLGATE_ALLOWED_HOSTS does not bind ENROLLGATE_DOWNLOAD_COMMAND: only the course's "
            "URL is checked before the command starts; to limit what it contacts, use a "
            "NetworkPolicy or a firewall"
        )
    try:
        if settings.launcher == "local":
            try:
                run_operator(settings)
            except LoopFailed as error:
                fail(error, 1)
            return
        # kopf is imported for a cluster only.
        from enrollgate.control.kopf_controller import Crashed, run_in_cluster

        try:
            run_in_cluster(settings)
        except Crashed as error:
            fail(error, 1)
    except (DatabaseMisconfigured, Misconfigured, PortUnavailable) as error:
        fail(error)
