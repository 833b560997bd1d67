"""The commands below `evenflow audit`; what they do is in audit.py."""

from pathlib import Path
from typing import Annotated

import typer

from evenflow.cli import audit
from evenflow.cli.exits import exits_cleanly
from evenflow.cli.where import Where

app = typer.Typer(no_args_is_help=True)

Home = Annotated[
    Path, typer.Option(envvar="EVENFLOW_HOME", help="What `make run` writes its certificates to.")
]
Host = Annotated[str, typer.Option(envvar="EVENFLOW_HOST", help="Where the mesh runs.")]
PolicyPort = Annotated[int, typer.Option(envvar="EVENFLOW_POLICY_PORT", help="Policy's port.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Since = Annotated[str | None, typer.Option(help="From then on, as in 2026-11-26T16:00:00Z.")]
Tenant = Annotated[str, typer.Option(help="Only of this tenant.")]
Action = Annotated[str, typer.Option(help="Only these: key.created, or key. for all of keys.")]

DEFAULT_HOME = Path(".evenflow")


@app.command("list")
def list_(  # noqa: PLR0913 - one parameter an option
    *,
    since: Since = None,
    tenant: Tenant = "",
    action: Action = "",
    last: Annotated[int, typer.Option(min=1, help="So many, the last ones.")] = 20,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show who did what, the last of it."""
    wanted = audit.request_of(since=since, tenant=tenant, action=action, last=last)
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        audit.listed(channel, wanted, as_json=as_json)


@app.command("export")
def export(
    *,
    since: Since = None,
    tenant: Tenant = "",
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Print the log as it is, JSON lines; what is not of one tenant alone can be verified."""
    wanted = audit.request_of(since=since, tenant=tenant, action="", last=0)
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        audit.export(channel, wanted)


@app.command("key")
def key(
    *, home: Home = DEFAULT_HOME, host: Host = "127.0.0.1", policy_port: PolicyPort = 9020
) -> None:
    """Print the public key that checkpoints are signed with, to keep it elsewhere."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        audit.key(channel)


@app.command("verify")
def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="Of the log. Default: that of `make run`.")
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="An export, instead of a folder.")] = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="The only ones to trust; else those beside it.")
    ] = None,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Prove that nothing was changed, or name the first broken entry. Needs no mesh."""
    if file is not None and folder is not None:
        raise typer.BadParameter("give a folder or --file, not both")
    audit.verify(file or folder or home / "audit", public_key or [], as_json=as_json)
