"""Lints the contracts and refuses a change that would break who already speaks them.

Compared with: what `main` holds, or, on main itself, the commit before. Both are compiled to
descriptor images first, so that buf needs no registry.
"""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).parent / "buf"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours.binpb"
        _image(ROOT / "protos", ours)
        failed = _buf("lint", str(ours))
        theirs = _published(Path(folder))
        if theirs is not None:
            failed |= _buf("breaking", str(ours), "--against", str(theirs))
    return failed


def _published(folder: Path) -> Path | None:
    """The image of the contracts that others may have built on; None before the first commit."""
    revision = _git("rev-parse", "--verify", "--quiet", "main").strip()
    if revision == _git("rev-parse", "HEAD").strip() or not revision:
        revision = _git("rev-parse", "--verify", "--quiet", "HEAD~1").strip()
    if not revision or not _git("ls-tree", revision.decode(), "protos/evenflow"):
        return None
    archive = _git("archive", "--format=zip", revision.decode(), "protos/evenflow")
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder)
    image = folder / "theirs.binpb"
    _image(folder / "protos", image)
    return image


def _git(*arguments: str) -> bytes:
    """What git prints; nothing where it fails, as for a revision that does not exist."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=False, capture_output=True).stdout  # noqa: S603 - our own


def _image(protos: Path, image: Path) -> None:
    generate = ROOT / "protos" / "generate.py"
    command = [sys.executable, str(generate), "--image-only", str(protos), str(image)]
    subprocess.run(command, check=True)  # noqa: S603 - our own arguments


def _buf(*arguments: str) -> int:
    command = [str(BUF), *arguments, "--config", str(ROOT / "protos" / "buf.yaml")]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own arguments


if __name__ == "__main__":
    sys.exit(main())
