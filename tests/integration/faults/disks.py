"""A small disk of its own for a test, to be filled to its last byte or its last file. Needs root.

It is a tmpfs. A file's last page has room that it keeps when the disk is full.
"""

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CHUNK = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Disk:
    folder: Path

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (len(_CHUNK), 1):
                _until_full(lambda count=size: file.write(_CHUNK[:count]))  # type: ignore[misc] # a default binds it now

    def fill_with_files(self, *, but: int) -> None:
        """Leaves room for so many more."""
        made: list[Path] = []
        _until_full(lambda: made.append(_touched(self.folder / f"file-{len(made)}")))
        for path in made[len(made) - but :]:
            path.unlink()

    def make_room(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@contextmanager
def disk(*, size_mb: int, files: int = 10_000) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a disk: run it as root, as CI does")
    with tempfile.TemporaryDirectory(prefix="evd-") as folder:  # short, for unix sockets
        options = f"size={size_mb}m,nr_inodes={files},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "evenflow", folder], check=True)
        try:
            yield Disk(Path(folder))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _until_full(write: Callable[[], object]) -> None:
    try:
        while True:
            write()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _touched(path: Path) -> Path:
    path.touch()
    return path
