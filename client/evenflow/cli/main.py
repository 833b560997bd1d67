"""The `evenflow` command: talk to a mesh, look at it, and issue development certificates."""

import sys


def main() -> None:
    """The entry point. The command's own packages come with the extra `cli`."""
    try:
        from evenflow.cli.commands import app  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "evenflow":
            raise
        sys.exit(f"evenflow: {error.name} is missing; install it with: pip install 'evenflow[cli]'")
    app()
