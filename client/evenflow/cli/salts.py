"""`evenflow salts`: the secrets that routers make cache salts with, a line for each epoch."""

import os
import secrets
from pathlib import Path

import typer

from evenflow.cli.exits import CannotWrite, NotThere
from evenflow.home import salt_file

_SECRET_BYTES = 32


def rotate(home: Path) -> None:
    """Appends a line in one write: routers never see a part of the secrets before it."""
    path = salt_file(home)
    try:
        lines = path.read_text().split()
        epoch = 1 + _epoch(lines[-1] if lines else "")
        with path.open("a") as file:
            file.write(f"\n{epoch}:{secrets.token_hex(_SECRET_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        raise NotThere(f"there is no {path}; `make run` makes it") from error
    except OSError as error:
        raise CannotWrite(f"can't write to {path}: {error.strerror}") from error
    typer.echo(f"{path}: epoch {epoch} is in force once routers have seen it, within 2 s")


def _epoch(line: str) -> int:
    """A secret without an epoch is of epoch 0."""
    number, colon, _ = line.partition(":")
    return int(number) if colon and number.isdigit() else 0
