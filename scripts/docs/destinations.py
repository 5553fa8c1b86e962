"""Generate docs/destinations.md: `python -m scripts.docs.destinations [--check FILE]`.

The table of errors and the limits come from the Drive destination itself, so the page is true.
"""

import sys

from scripts.docs.generated import print_or_check

from enrollgate.domain.reasons import explain
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.errors import RULES
from enrollgate.worker.destinations.drive.retry import LONGEST_PAUSE, MAX_ATTEMPTS, PAUSES
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW

_HEAD = f"""# Destinations

`ENROLLGATE_DESTINATION` says where courses are delivered. The destination is also the checkpoint:
a complete file that is already there is not moved again. If you correct a task's `course_url`, it
is another course and gets a folder of its own. (Parameters that only sign a URL do not count.) The
files of the first course stay where they are.

## A directory

`directory:/path`: one folder for each course, with a `manifest.json` that lists its files. If the
scratch folder is on the same file system, a verified file is linked there, else it is copied. What
a download command wrote is always copied. If its disk or quota is full, a task fails with
`DestinationQuota`, and the others wait [on hold](holds.md) until there is room.

## Google Drive

`drive:<folder id>`, or the folder's URL from the browser. In it, each course gets a folder, and
each section a folder in that. Enrollgate finds a course's folder again by its `appProperties`.

- **Uploads resume.** They are sent in chunks of `ENROLLGATE_DRIVE_CHUNK_SIZE`. The upload session
  is saved to disk before the first byte is sent, so a killed worker continues where it stopped.
  Drive keeps the part of a broken chunk that it has received, in units of 256 KiB.
- **Uploads are verified**: the size and the MD5 of each file. If Drive has not computed the MD5
  yet, Enrollgate asks again before it judges.
- **Files have their type**: Drive gets a `mimeType` by the extension, so that it can show them.
- **No duplicates.** Ids are created before the files, so a repeated request never creates two. If
  two workers deliver the same task at once, each lists what is there after it has created a folder,
  and at the end. All use the oldest folder and keep the newest copy; the others move to the trash.
- **Checked at the end.** A run is complete only if all its files are still at Drive.
- **Nothing is deleted for good.** A corrupt upload, or an old file beside its complete copy, moves
  to the trash: a content manager of a shared drive may not delete files. Drive empties the trash
  after 30 days.

`enrollgate doctor` writes a probe file to the folder, verifies it, and moves it to the trash.

Drive's search may not show new files at once. So the run keeps the ids of its folders and files in
its scratch folder, and asks for them directly. In a Job, the scratch folder belongs to the pod. If
a pod is replaced before the search shows the course's folder, the new pod may create a second
folder. At the end of the run, and at the start of the next one, the younger folder is merged into
the older one: its files move, and the empty folder moves to the trash. What you put there yourself
stays.

The folder must lie at most 98 levels deep: Drive allows 100, and a course needs two. Name the
folder itself, not a shortcut to it.

First, enable the *Google Drive API* in a Google Cloud project. Then choose the credentials:

| credentials | steps |
| --- | --- |
| service account, shared drive | Create a service account and a JSON key. Add the account to the \
**shared drive** as content manager. Set `ENROLLGATE_DRIVE_CREDENTIALS=/path/key.json`. A folder \
in someone's My Drive does not work: a service account has no storage of its own. |
| service account for a user | As above. Then, in the Workspace admin console, grant the account's \
client id domain-wide delegation of the scope `https://www.googleapis.com/auth/drive`. Set \
`ENROLLGATE_DRIVE_SUBJECT=user@your.domain`: the files belong to that user. |
| a user's login | Create an OAuth client of the type *Desktop app* and download its JSON. Run \
`enrollgate drive login --client-secrets client.json --output login.json`. Set \
`ENROLLGATE_DRIVE_CREDENTIALS=/path/login.json`. The login of an app in *testing* expires after \
seven days: publish the app. |
| workload identity | Do not set `ENROLLGATE_DRIVE_CREDENTIALS`: the application default \
credentials are used. Bind the worker's Kubernetes service account to a Google service account \
that is a member of the shared drive. |

### Proxy and certificates

Requests to Google go through the proxy that the worker's environment names, as those to course
sites do: `HTTPS_PROXY`, else `ALL_PROXY`, in lower or upper case. Its value is `http://host:port`
(CONNECT), or `socks5h://host:port`; a user name and password may precede the host. `NO_PROXY` lists
hosts and domains to reach directly, separated by commas, or `*`. Google Cloud's metadata server is
always reached directly. A proxy that cannot be used is an error, and never leads to a direct
connection.

With a proxy, the proxy looks up names and connects, so Enrollgate's own check of the addresses
that a course site leads to does not apply: allow only public addresses in the proxy. The upload's
session must be on the endpoint's host or on `googleapis.com`, with or without a proxy. Redirects
are not followed.

The proxy must let the worker connect to port 443 of `www.googleapis.com` and
`oauth2.googleapis.com`. If it inspects TLS, name the file of its authority in `SSL_CERT_FILE`.
In local mode, runs have the operator's variables. For Jobs, set them in the chart:

```yaml
worker:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - name: worker
              env:
                - {{name: HTTPS_PROXY, value: "http://proxy.example:3128"}}
networkPolicy:
  extraWorkerEgress:
    - to: [{{ipBlock: {{cidr: 10.0.0.5/32}}}}]
      ports: [{{port: 3128}}]
```

The scope is `drive`, not `drive.file`: with `drive.file`, an application sees only the files that
it created itself. It could not see your folder.

To try it without Google, run this in the repository:
`.venv/bin/python -m tests.drive_emulator --folder var/drive --faults 0.2`. It starts an emulator of
the same protocol that fails a fifth of all requests, and prints the settings to use.

## Errors of Drive

*Retried*: Enrollgate sends the same request up to {MAX_ATTEMPTS} times without progress. The
pauses grow from {PAUSES.base:.0f} s to {PAUSES.cap:.0f} s, less a random part. It waits as long
as a `Retry-After` header asks, up to {LONGEST_PAUSE:.0f} s. If Drive asks for a longer wait, the
attempt ends, and the next one starts that much later. (In a Job, Kubernetes' back-off decides when
the next pod starts.)

*Next attempt* says whether another attempt of the run can help. The run ends at once if nothing
more can be delivered (credentials, quota, rate limits, the folder), or if {DELIVERIES_IN_A_ROW}
deliveries in a row fail.

| condition | reason | message | remedy | retried | next attempt |
| --- | --- | --- | --- | --- | --- |
"""
_TAIL = f"""
A connection counts as lost if no bytes move for {SOCKET_TIMEOUT:.0f} s. Request bodies are sent in
blocks of 64 KiB, each with that timeout of its own, so a slow upload is not a lost connection.
After any error in an upload, Enrollgate asks Drive how much it has (308 with `Range`; without
`Range`: nothing) before it sends more.

This page is generated: `make docs`.
"""


def render() -> str:
    """Return the page as Markdown."""
    rows = "".join(
        f"| {rule.condition} | `{rule.reason}` | {rule.message} | {rule.remedy} "
        f"| {_yes(rule.retried)} | {_yes(explain(rule.reason).retry_can_help)} |\n"
        for rule in RULES
    )
    return _HEAD + rows + _TAIL


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
