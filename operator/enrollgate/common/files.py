"""Files: put in place in one piece, and their MD5."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

_BLOCK_SIZE = 1 << 20


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Puts the text in place as a whole or not at all (mode 0600); `durable`: returns once it is on the disk. Raises OSError.

    The draft is named after this process, lest two that write the same file write the same draft, and made anew, lest it be
    somebody else's.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if durable:
                os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def md5_of(path: Path, before_block: Callable[[], None] = lambda: None) -> str:
    """Return the MD5 of a file, in hexadecimal digits: Google Drive and manifests use it.

    `before_block` is called before each MiB is read. What it raises ends the work.
    """
    digest = hashlib.md5(usedforsecurity=False)
    before_block()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_SIZE):
            digest.update(block)
            before_block()
    return digest.hexdigest()
