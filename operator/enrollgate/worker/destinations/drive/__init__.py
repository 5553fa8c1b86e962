"""Google Drive as destination: one folder per course, each file there once, complete and verified.

- `destination` implements the protocol `Destination` with the modules below.
- `credentials` and `client` send requests to Drive; `errors` says what a failed one means.
- `retry` repeats requests; `folders` and `uploads` are what is requested.
- `sessions` keeps on disk what the next attempt must know.
- `probe` is the doctor's check, `login` obtains a user's credentials.

May import the worker's modules, the settings, `domain` and `common`.
"""

from enrollgate.worker.destinations.drive.destination import Drive, open_drive

__all__ = ["Drive", "open_drive"]
