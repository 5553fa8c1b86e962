"""Google Drive as destination: a folder a course, sections below it, each file there once, whole and verified.

`destination` implements the protocol with the parts around it: `credentials` and `client` (who asks, and how), `errors` (what an
answer means) and `retry_policy` (trying again, in one place), `folders` and `uploads` (what is asked), `sessions` (what survives
a killed worker), `probe` (the doctor's proof) and `login` (a user's token). May import the worker's names and the domain.
"""

from enrollgate.worker.destinations.drive.destination import Drive, open_drive

__all__ = ["Drive", "open_drive"]
