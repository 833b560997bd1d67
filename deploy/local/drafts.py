"""Writes files whole or not at all: a full disk or a crash leaves what was there before."""

import os
from pathlib import Path


def drafted(path: Path, content: str) -> Path:
    """A complete, private file beside `path`, to be renamed to it. Left by nobody if it fails."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)  # or a rename may outlive a crash that its content does not
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def write_whole(path: Path, content: str) -> None:
    drafted(path, content).replace(path)
