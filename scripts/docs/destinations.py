"""Renders docs/destinations.md from the rules of the code: `python -m scripts.docs.destinations [--check FILE]`."""

import sys

from scripts.docs.generated import print_or_check

from enrollgate.domain.reasons import explain
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.errors import RULES
from enrollgate.worker.destinations.drive.retry import LONGEST_PAUSE, MAX_ATTEMPTS, PAUSES
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW

_HEAD = f"""# Destinations

`ENROLLGATE_DESTINATION` says where courses go. Whatever it is, it is the checkpoint: what is there, whole, is not moved again.
A task whose `course_url` is corrected is another course and gets a folder of its own (parameters that only sign a URL do not
count); what was delivered of the first one stays where it is.

## A directory

`directory:/path`: a folder for each course, with a `manifest.json` that says what is in it.

## Google Drive

`drive:<folder id>`; the folder's address from the browser is understood, too. Below it there is a folder for each course, found
again by its `appProperties`, with a folder for each section. Uploads are resumable in chunks of `ENROLLGATE_DRIVE_CHUNK_SIZE`;
each file's size and MD5 are verified; ids are made before the files, so a repeated request never leaves two. A killed worker goes
on where the upload was: its session is on disk before a byte is sent, and Drive keeps what it has of a cut chunk, in whole 256 KiB.
What must go (a corrupt upload, the stale file beside a whole one) is put into the bin, since a content manager of a shared drive
may not delete for good; Drive empties it after 30 days. `enrollgate doctor` writes and verifies a probe file in the folder, and
puts it into the bin.

Drive's searches may lag behind what was just made. So the run's scratch remembers the ids of folders and files, and they are
asked for by themselves. In a Job, scratch is the pod's own: if a pod is replaced while searches lag, the new one may begin a
second folder and deliver the course there. Nothing is missing then, and the next run that sees both folders keeps to the older
one, brings into it what only the other has, and puts into the bin what is there twice.

Enable the *Google Drive API* in a Google Cloud project first. Then choose who delivers:

| credentials | steps |
| --- | --- |
| service account, shared drive | Make a service account and a JSON key. Add the account to the **shared drive** as content \
manager. \
`ENROLLGATE_DRIVE_CREDENTIALS=/path/key.json`. A folder of someone's My Drive does not do: the account has no storage \
of its own. |
| service account for a user | As above; in the Workspace admin console grant the account's client id domain-wide \
delegation of the scope `https://www.googleapis.com/auth/drive`. `ENROLLGATE_DRIVE_SUBJECT=user@your.domain`: files are \
that user's. |
| a user's login | Make an OAuth client of the type *Desktop app*, download its JSON, and run \
`enrollgate drive login --client-secrets client.json --output login.json`. `ENROLLGATE_DRIVE_CREDENTIALS=/path/login.json`. \
An app in *testing* \
loses its login after seven days: publish it. |
| workload identity | Set no `ENROLLGATE_DRIVE_CREDENTIALS`: application default credentials are used. The worker's Kubernetes \
service account must be bound to a Google service account that is on the shared drive. |

The scope is `drive`, not `drive.file`: the smaller one shows an application only what it made itself, so it could not see the
folder that you name.

To try it without Google, from the repository: `.venv/bin/python -m tests.drive_emulator --folder var/drive --faults 0.2` starts a
stand-in that speaks the same protocol, fails a fifth of the time, and prints the settings to use.

## What Drive says, and what it means

*Retried*: the same request is sent up to {MAX_ATTEMPTS} times without progress, after pauses that grow from {PAUSES.base:.0f} s to \
{PAUSES.cap:.0f} s (less chance);
`Retry-After` is honoured up to {LONGEST_PAUSE:.0f} s. A longer one ends the try, and the next begins that much later (a Job's \
next pod comes
by Kubernetes' own back-off). *Next try* says whether the run's next try can help. What says that nothing more can be delivered
(credentials, quota, rate limits, the folder) ends the run at once, and so do {DELIVERIES_IN_A_ROW} deliveries in a row that \
failed in any way.

| what Drive says | reason | message | remedy | retried | next try |
| --- | --- | --- | --- | --- | --- |
"""
_TAIL = f"""
A connection on which nothing moves for {SOCKET_TIMEOUT:.0f} s counts as cut: bodies are sent in pieces of a few KiB, each with that
time-out of its own, so that a slow chunk is no stall. After any trouble in an upload, Drive is asked how much it has (308 with
`Range`; without it: nothing) before more is sent.

This page is generated: `make docs`.
"""


def render() -> str:
    """The page as Markdown."""
    rows = "".join(
        f"| {rule.condition} | `{rule.reason}` | {rule.message} | {rule.remedy} | {_yes(rule.retried)} "
        f"| {_yes(explain(rule.reason).retry_can_help)} |\n"
        for rule in RULES
    )
    return _HEAD + rows + _TAIL


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
