"""A stand-in for Google Drive v3 that speaks just what the destination uses, refuses what Drive refuses, and fails on demand."""

from tests.drive_emulator.faults import Fault, Faults
from tests.drive_emulator.server import DriveEmulator
from tests.drive_emulator.store import Store

__all__ = ["DriveEmulator", "Fault", "Faults", "Store"]
