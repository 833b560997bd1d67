"""Stage 0 of every `make` target: from a bare Python to `.venv`, the project in it, and stubs.

Needs the standard library only. Each step leaves a stamp, a digest of what it was made from, so
a second start costs a few milliseconds.

Usage: python3 -m deploy.local.stage0
"""

from __future__ import annotations  # so that an old Python gets as far as our message

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from deploy.local.progress import step

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
LOCK = ROOT / "requirements.lock"
SUPPORTED = (3, 11)
OVERWRITTEN = ("googleapis-common-protos", "opentelemetry-proto")  # by xds-protos' older copies
DISK_BYTES = 1_000_000_000  # packages of requirements.lock, unpacked, twice over


class SetUpFailed(Exception):
    """The environment can't be made; the message says what to do."""


def main() -> int:
    try:
        check_machine(sys.version_info[:2], shutil.disk_usage(ROOT).free)
        with (ROOT / "pyproject.toml").open() as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # two `make` at once take turns
            set_up()
    except SetUpFailed as error:
        print(f"evenflow: {error}", file=sys.stderr)
        return 1
    return 0


def check_machine(version: tuple[int, int], free_bytes: int) -> None:
    if version != SUPPORTED:
        raise SetUpFailed(
            f"needs Python {_dotted(SUPPORTED)}, got {_dotted(version)} ({sys.executable}).\n"
            f"Name another: make PYTHON=/path/to/python{_dotted(SUPPORTED)} ..."
        )
    if not VENV.exists() and free_bytes < DISK_BYTES:
        raise SetUpFailed(
            f"needs {DISK_BYTES / 1e9:.0f} GB of free disk for {VENV}, "
            f"but only {free_bytes / 1e9:.1f} GB are free"
        )


def set_up() -> None:
    made_from = digest([LOCK], extra=(str(ROOT), _dotted(SUPPORTED), *OVERWRITTEN))
    packages, project, stubs = (
        VENV / f".stage0-{name}" for name in ("packages", "project", "stubs")
    )
    if _stale(packages, made_from):
        _make_environment()
        _install_packages()
        project.unlink(missing_ok=True)  # uv's sync has removed the project itself
        packages.write_text(made_from)
    protos = [*sorted((ROOT / "protos").rglob("*.proto")), ROOT / "protos" / "generate.py", LOCK]
    if _stale(stubs, digest(protos)) or not any((ROOT / "client/evenflow").glob("*/v1/*_pb2.py")):
        with step("generating stubs"):
            _run([str(PYTHON), "protos/generate.py"])
        stubs.write_text(digest(protos))
    described = digest([ROOT / "pyproject.toml"])
    if _stale(project, described):
        with step("installing the evenflow command"):
            _uv("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        project.write_text(described)


def digest(files: Iterable[Path], extra: Sequence[str] = ()) -> str:
    """Changes with the name or content of any of the files, and with each of `extra`."""
    sum_ = hashlib.sha256(repr(tuple(extra)).encode())
    for file in files:
        content = file.read_bytes()
        sum_.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return sum_.hexdigest()


def pinned(name: str, lock: str) -> str:
    """The lines of one package in a lock file: its version and its hashes."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n    --hash=.*)*", lock, re.MULTILINE)
    if found is None:
        raise SetUpFailed(f"{LOCK.name} must name {name}")
    return found.group() + "\n"


def _make_environment() -> None:
    if PYTHON.exists():
        version = _output([str(PYTHON), "-c", "import sys; print(*sys.version_info[:2], sep='.')"])
        if version != _dotted(SUPPORTED):
            raise SetUpFailed(
                f"{VENV} must hold Python {_dotted(SUPPORTED)}, got {version or 'a broken one'}.\n"
                "Remove it with `make clean` and try again."
            )
        return
    if not _has_ensurepip():
        raise SetUpFailed(
            "this Python can't make environments. On Debian: apt install python3-venv"
        )
    with step("creating .venv"):
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def _install_packages() -> None:
    with step("installing uv"), NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(pinned("uv", LOCK.read_text()))
        requirements.flush()
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "--requirement", requirements.name])
    with step("installing packages"):
        _uv("sync", "--require-hashes", str(LOCK))
        # Whoever of two packages is unpacked last owns the files that both bring.
        with NamedTemporaryFile("w", suffix=".txt") as requirements:
            requirements.writelines(pinned(name, LOCK.read_text()) for name in OVERWRITTEN)
            requirements.flush()
            again = ("--reinstall", "--no-deps", "--require-hashes")
            _uv("install", *again, "--requirement", requirements.name)


def _uv(command: str, *arguments: str) -> None:
    _run([str(UV), "pip", command, "--quiet", "--python", str(PYTHON), *arguments])


def _run(command: Sequence[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 - our own arguments
        command,
        cwd=ROOT,
        env=environ,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SetUpFailed(f"`{' '.join(command)}` failed:\n{done.stdout}")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    return done.stdout.strip()


def _has_ensurepip() -> bool:
    return not subprocess.call(
        [sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL
    )


def _stale(stamp: Path, made_from: str) -> bool:
    return not stamp.exists() or stamp.read_text() != made_from


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
