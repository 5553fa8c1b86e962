"""Files: written atomically, and their MD5."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

_BLOCK_SIZE = 2**20


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Write the file for its owner alone (mode 0600), completely or not at all. Raises OSError.

    The temporary file has this process's id in its name, so that two processes never share one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write_atomically(path, text, temporary, mode=0o600, durable=durable)


def write_atomically(
    path: Path, text: str, temporary: Path, *, mode: int = 0o666, durable: bool = True
) -> None:
    """Write the file by way of a temporary one, completely or not at all. Raises OSError.

    With `durable`, return only when the content is on the disk. An existing temporary file is
    deleted first, since it may belong to somebody else. The process's umask limits `mode`.
    """
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if durable:
                os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def file_md5(path: Path, before_block: Callable[[], None] = lambda: None) -> str:
    """Return the file's MD5 in hexadecimal digits. Google Drive and manifests identify files by it.

    `before_block` is called before each MiB is read. What it raises ends the work.
    """
    digest = hashlib.md5(usedforsecurity=False)
    before_block()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_SIZE):
            digest.update(block)
            before_block()
    return digest.hexdigest()
