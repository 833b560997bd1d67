"""Swaps all files of a certificate folder at once, so that nobody reads halves of two issues."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Swaps all files in one rename, so that no reader pairs a new key with an old certificate.

    The layout is Kubernetes' for mounted secrets, which Envoy's `watched_directory` knows too:
    `cert.pem` points at `..current/cert.pem`, and `..current` at the folder of one issue.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    version = Path(mkdtemp(prefix="..", dir=folder))
    try:
        for name, content in files.items():
            _write(version / name, content)
    except OSError:
        shutil.rmtree(version)  # a full disk: what is there stays, and nothing else does
        raise
    _point(folder / "..current", Path(version.name))
    for name in files:
        _point(folder / name, Path("..current", name))
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old != version:
            shutil.rmtree(old)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)  # before the links point here


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
