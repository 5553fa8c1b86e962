"""An emulator of the parts of the Google Drive v3 API that the destination uses.

It refuses what Drive refuses, and fails on demand: see README.md. Only tests, benchmarks and people
who try Enrollgate without Google use it; it is not in the image.
"""

from tests.drive_emulator.faults import Fault, Faults
from tests.drive_emulator.server import DriveEmulator
from tests.drive_emulator.store import Store

__all__ = ["DriveEmulator", "Fault", "Faults", "Store"]
