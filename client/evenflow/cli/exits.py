"""What the command prints, and returns to the shell, when something is not as it should be.

The codes are those of sysexits.h, so that a script can tell a refusal from a mesh that is down.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from evenflow.certificates import InvalidCertificate
from evenflow.errors import (
    Cancelled,
    DeadlineExceeded,
    EvenflowError,
    Refused,
    StreamLost,
    Unreachable,
)

REFUSED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_CODES: dict[type[EvenflowError], int] = {
    Refused: REFUSED,
    Unreachable: os.EX_UNAVAILABLE,
    StreamLost: os.EX_TEMPFAIL,
    DeadlineExceeded: os.EX_TEMPFAIL,
    Cancelled: os.EX_TEMPFAIL,
}


class NotThere(Exception):
    """A file that the command needs is missing; the message says how to get it."""


class CannotWrite(Exception):
    """A file could not be written; what was there before still is."""


@contextmanager
def exits_cleanly() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        typer.echo(f"evenflow: the mesh can't be reached: {error}", err=True)
        typer.echo("Is `make run` up, and are the ports the same here and there?", err=True)
        raise typer.Exit(os.EX_UNAVAILABLE) from error
    except Refused as error:
        typer.echo(f"evenflow: refused: {error}", err=True)
        if error.retry_after_s is not None:
            typer.echo(f"Come back in {error.retry_after_s:g} s.", err=True)
        raise typer.Exit(REFUSED) from error
    except EvenflowError as error:
        typer.echo(f"evenflow: {error}", err=True)
        raise typer.Exit(_CODES[type(error)]) from error
    except (NotThere, InvalidCertificate) as error:
        typer.echo(f"evenflow: {error}", err=True)
        raise typer.Exit(os.EX_CONFIG) from error
    except CannotWrite as error:
        typer.echo(f"evenflow: {error}", err=True)
        raise typer.Exit(os.EX_CANTCREAT) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
