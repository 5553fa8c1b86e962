"""Build the image's root folder from the Dockerfile, without a container engine.

Run `python tests/image/image_root.py`. It understands the few instructions that our Dockerfile uses
and rejects all others, so the two cannot differ. It executes each RUN in a chroot. Instead of the
base image it uses Debian, installed by debootstrap and cached in .cache, with a copy of the Python
that runs this, which must have the Dockerfile's minor version. It needs root, a Debian mirror and
PyPI. It prints the folder that holds `root/` and `config.json` (user, environment, entry point).
"""

import fnmatch
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache"
SUITE = "bookworm"
# What the base image has: the libraries of its Python, certificates and time zones.
PACKAGES = (
    "ca-certificates,libbz2-1.0,libffi8,libgdbm6,liblzma5,libncursesw6,libreadline8,libsqlite3-0,"
    "libssl3,libuuid1,netbase,tzdata,zlib1g"
)
# Variables of this machine that RUN steps need to reach the network.
_NETWORK_VARIABLES = ("PIP_*", "*_PROXY", "*_proxy")
# Files of this machine that are in the chroot while a step runs, for the same reason.
_NETWORK_FILES = ("etc/resolv.conf", "etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
# What .dockerignore excludes.
_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotBuild(RuntimeError):
    """The image cannot be built. The message says why, and what to do."""


@dataclass
class Stage:
    """A build stage of the Dockerfile."""

    root: Path
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction with its arguments, without comments and line continuations."""
    lines = [
        line
        for line in dockerfile.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), rest.strip()


def build(folder: Path) -> Path:
    """Build every stage in `folder` and return the root folder of the last one.

    Raises:
        CannotBuild: the Dockerfile is not supported, or a step failed.
    """
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    base = base_root()
    for word, rest in instructions((REPOSITORY / "Dockerfile").read_text(encoding="utf-8")):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            stage = stages[name] = Stage(folder / name)
            _run("cp", "-a", str(base), str(stage.root))
        elif stage is None:
            raise CannotBuild(f"{word} before FROM")
        else:
            _execute(stage, word, rest, stages)
    if stage is None:
        raise CannotBuild("the Dockerfile has no stage")
    config = {
        "user": stage.user,
        "workdir": stage.workdir,
        "environment": stage.environment,
        "entrypoint": stage.entrypoint,
        "command": stage.command,
        "labels": stage.labels,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return stage.root


def _execute(stage: Stage, word: str, rest: str, stages: dict[str, Stage]) -> None:
    match word:
        case "RUN":
            _run_step(stage, rest)
        case "COPY":
            _copy(stage, rest, stages)
        case "LABEL":
            stage.labels |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "ENV":
            stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "WORKDIR":
            stage.workdir = rest
            _inside(stage.root, rest).mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case _:
            raise CannotBuild(
                f"{word} is not supported: add it to _execute in tests/image/image_root.py"
            )


def _run_step(stage: Stage, rest: str) -> None:
    bound: Path | None = None
    if rest.startswith("--mount=type=bind,"):
        options, _, rest = rest.partition(" ")
        mount = dict(pair.split("=", 1) for pair in options.removeprefix("--mount=").split(","))
        bound = _inside(stage.root, mount["target"])
        shutil.copytree(REPOSITORY / mount["source"], bound)
    network_variables = {
        name: value
        for name, value in os.environ.items()
        if any(fnmatch.fnmatch(name, each) for each in _NETWORK_VARIABLES)
    }
    variables = [
        f"{name}={value}" for name, value in (network_variables | stage.environment).items()
    ]
    copied = _copy_network_files(stage.root)
    try:
        script = f"cd {shlex.quote(stage.workdir)} && {rest}"
        _run("chroot", str(stage.root), "/usr/bin/env", "-i", *variables, "/bin/sh", "-c", script)
    finally:
        for path, before in copied:
            path.unlink()
            if before is not None:
                path.write_bytes(before)
        if bound:
            shutil.rmtree(bound)


def _copy_network_files(root: Path) -> list[tuple[Path, bytes | None]]:
    copied: list[tuple[Path, bytes | None]] = []
    for name in _NETWORK_FILES:
        if (source := Path("/") / name).is_file():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copied.append((target, target.read_bytes() if target.is_file() else None))
            target.write_bytes(source.read_bytes())
    return copied


def _copy(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    *sources, target = rest.split()
    context = REPOSITORY
    if sources[0].startswith("--from="):
        context = stages[sources.pop(0).removeprefix("--from=")].root
    into = _inside(stage.root, target if target.startswith("/") else f"{stage.workdir}/{target}")
    for name in sources:
        source = _inside(context, name)
        if source.is_dir():
            shutil.copytree(
                source,
                into,
                symlinks=True,
                dirs_exist_ok=True,
                ignore=_IGNORED if context == REPOSITORY else None,
            )
        else:
            destination = into / source.name if target.endswith("/") or len(sources) > 1 else into
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)


def _inside(root: Path, path: str) -> Path:
    return root / path.removeprefix("./").lstrip("/")


def base_image() -> str:
    """Return the base image that the Dockerfile names."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    return next(rest.partition(" ")[0] for word, rest in instructions(dockerfile) if word == "FROM")


def base_root() -> Path:
    """Return the root folder that replaces the base image. Built once and cached.

    Raises:
        CannotBuild: the Python that runs this is another one, or cannot be copied.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not base_image().startswith(f"python:{python}."):
        raise CannotBuild(
            f"the Dockerfile has {base_image()}, and this is Python {python}: "
            "let PYTHON name one of that minor version for scripts/setup"
        )
    prefix = Path(sys.base_prefix)
    if prefix == Path("/usr"):
        raise CannotBuild(
            "the distribution's Python cannot be copied: let PYTHON name one with a folder of its "
            "own for scripts/setup, such as pyenv's"
        )
    packages = f"{PACKAGES} {sys.version}"
    base = CACHE / f"image-base-{SUITE}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}"
    if (base / "complete").exists():
        return base / "root"
    part = base.with_name(f"{base.name}.part.{os.getpid()}")
    try:
        (part / "debootstrap").mkdir(parents=True)
        part.chmod(0o755)
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "debootstrap", cwd=part)
        _run("dpkg-deb", "-x", str(next(part.glob("debootstrap_*.deb"))), "debootstrap", cwd=part)
        program = part / "debootstrap" / "usr" / "sbin" / "debootstrap"
        _run(
            str(program),
            "--variant=minbase",
            f"--include={PACKAGES}",
            SUITE,
            str(part / "root"),
            _mirror(),
            DEBOOTSTRAP_DIR=str(part / "debootstrap/usr/share/debootstrap"),
        )
        library = prefix / "lib" / f"python{python}"
        shutil.copytree(
            prefix,
            part / "root/usr/local",
            symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda folder, names: {
                name
                for name in names
                if name in ("__pycache__", "test", "idlelib", "tkinter")
                or name.endswith(".a")
                or Path(folder) in (library / "site-packages", prefix / "share")
            },
        )
        _run("chroot", str(part / "root"), "/sbin/ldconfig")
        shutil.rmtree(part / "root/var/lib/apt/lists")
        (part / "root/var/lib/apt/lists").mkdir()
        shutil.rmtree(part / "root/var/cache/apt/archives", ignore_errors=True)
        (part / "root/var/cache/apt/archives/partial").mkdir(parents=True)
        (part / "complete").touch()
        shutil.rmtree(base, ignore_errors=True)
        part.rename(base)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return base / "root"


def _mirror() -> str:
    """Return the Debian mirror in this machine's apt sources."""
    for path in sorted(Path("/etc/apt").glob("sources.list*")):
        for source in sorted(path.iterdir()) if path.is_dir() else [path]:
            for word in source.read_text(encoding="utf-8").split():
                if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                    return word
    raise CannotBuild("the apt sources of this machine name no Debian mirror: use `docker build`")


def _run(*command: str, cwd: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuild(
            f"{shlex.join(command)} failed with exit code {done.returncode}:\n"
            f"{(done.stdout + done.stderr)[-4000:]}"
        )


def fingerprint() -> str:
    """Return a hash of everything that goes into the image."""
    digest = hashlib.sha256()
    parts = [
        "Dockerfile",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements/runtime.txt",
        "tests/image/image_root.py",
    ]
    trees = [
        path
        for tree in ("operator", "scripts/image")
        for path in sorted((REPOSITORY / tree).rglob("*"))
        if path.is_file()
    ]
    for path in (*(REPOSITORY / part for part in parts), *trees):
        if "__pycache__" not in path.parts and not any(
            part.endswith(".egg-info") for part in path.parts
        ):
            digest.update(
                str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes() + b"\0"
            )
    return digest.hexdigest()[:12]


def image() -> Path:
    """Return the folder with the built image, from the cache if nothing has changed.

    Raises:
        CannotBuild: this machine cannot build it, or a step failed.
    """
    if os.geteuid() != 0:
        raise CannotBuild("building a root folder needs root: run as root, or use `docker build`")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotBuild("this machine does not run Debian: use `docker build`")
    folder = CACHE / f"image-{fingerprint()}"
    if (folder / "complete").exists():
        return folder
    part = folder.with_name(f"{folder.name}.part.{os.getpid()}")
    try:
        part.mkdir(parents=True)
        build(part).rename(part / "root")
        shutil.rmtree(part / "build", ignore_errors=True)
        (part / "complete").touch()
        for old in CACHE.glob("image-*"):
            if not old.name.startswith("image-base-") and ".part." not in old.name:
                shutil.rmtree(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


if __name__ == "__main__":
    try:
        print(image())
    except CannotBuild as error:
        sys.exit(f"image_root: {error}")
