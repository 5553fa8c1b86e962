"""Rehearse a release on this machine: `python -m scripts.release_check [--tag TAG]`.

It builds what a release publishes, signs the chart with a key that is thrown away, and pushes it to
a registry on this machine. Helm must refuse it there without the signature and with another key,
and must render it with the right one. The image, cosign's keyless signatures and the uploads are
left to the workflow: they need a container engine and GitHub's identity.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from scripts.release_artifacts import (
    EXAMPLE,
    FOLDER,
    IMAGE,
    REPOSITORY,
    ReleaseError,
    build,
    helm,
    read_version,
    run,
)

_START_SECONDS = 20
_KEY = "A rehearsal"


@contextlib.contextmanager
def start_registry(folder: Path) -> Iterator[str]:
    """Run a registry on a free port of the loopback address, which is yielded.

    Raises ReleaseError.
    """
    program = run("scripts/registry").strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = folder / "registry.yml"
    settings.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", settings], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                text = (folder / "registry.log").read_text(errors="replace")
                raise ReleaseError(f"the registry does not start:\n{text}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def create_key(home: Path) -> tuple[Path, Path]:
    """Create a key that only this rehearsal uses. Returns its secret and its public keyring."""
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--batch", "--quiet", "--homedir", home, "--passphrase", "")
    run(*gpg, "--pinentry-mode=loopback", "--quick-generate-key", _KEY, "rsa2048", "default", "1d")
    secret, public = home / "secret.gpg", home / "public.gpg"
    run(*gpg, "--pinentry-mode=loopback", "--output", secret, "--export-secret-keys")
    run(*gpg, "--output", public, "--export")
    run("gpgconf", "--homedir", home, "--kill", "gpg-agent")
    return secret, public


def check_chart(version: str, folder: Path) -> None:
    """Push, sign, verify and render the packaged chart. Raises ReleaseError."""
    secret, public = create_key(folder / "key")
    _, other = create_key(folder / "other-key")
    source, signed = FOLDER / "chart" / "enrollgate", folder / "signed"
    helm("package", source, "--destination", signed, "--sign", "--key", _KEY, "--keyring", secret)
    name = f"enrollgate-{version}.tgz"
    with start_registry(folder) as address:
        place = f"oci://{address}/charts"

        def render(*options: str | Path) -> str:
            chart = (f"{place}/enrollgate", f"--version={version}", "--plain-http")
            return helm("template", "enrollgate", *chart, *EXAMPLE, *options)

        def refuse(what: str, keyring: Path) -> None:
            try:
                render("--verify", "--keyring", keyring)
            except ReleaseError:
                return
            raise ReleaseError(f"helm accepts {what}: its verification proves nothing")

        helm("push", FOLDER / name, place, "--plain-http")
        refuse("a chart without a signature", public)
        helm("push", signed / name, place, "--plain-http")
        refuse("a signature by another key", other)
        rendered = render("--verify", "--keyring", public)
    if f"{IMAGE}:{version}" not in rendered:
        raise ReleaseError(f"the chart in the registry does not use {IMAGE}:{version}")


def check_wheel(wheel: Path, version: str, folder: Path) -> None:
    """Install a wheel into an empty folder and start it from there. Raises ReleaseError."""
    target = folder / "installed"
    run(".venv/bin/uv", "pip", "install", "--quiet", "--no-deps", f"--target={target}", wheel)
    printed = run(".venv/bin/python", "-m", "enrollgate", "--version", PYTHONPATH=str(target))
    if printed.strip() != f"enrollgate {version}":
        raise ReleaseError(f"the wheel calls itself {printed.strip()!r}, and not {version}")


def main() -> int:
    """Rehearse the release. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    try:
        version = read_version(REPOSITORY, parser.parse_args().tag)
        artifacts = build(version)
        with tempfile.TemporaryDirectory(prefix="enrollgate-release-") as name:
            check_wheel(artifacts.wheel, version, Path(name))
            check_chart(version, Path(name))
    except ReleaseError as error:
        sys.stderr.write(f"release-check: {error}\n")
        return 1
    print(f"{FOLDER.relative_to(REPOSITORY)}: {version} built, signed and verified.")
    print("Left to the workflow: the image for amd64 and arm64, keyless signatures, uploads.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
