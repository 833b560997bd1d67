"""`evenflow prompts` and its options; what the commands do is in prompts.py."""

from pathlib import Path
from typing import Annotated

import typer

from evenflow.cli import prompts
from evenflow.cli.exits import exits_cleanly
from evenflow.cli.options import DEFAULT_HOME, AsJson, Home, Host, PolicyPort
from evenflow.cli.where import Where

prompts_app = typer.Typer(no_args_is_help=True)

Owner = Annotated[str, typer.Option(help="Whose prompts.")]
Name = Annotated[str, typer.Argument(help="The prompt's.")]


@prompts_app.command("create")
def create(  # noqa: PLR0913 - one parameter an option
    file: Annotated[Path, typer.Argument(help="YAML or JSON; - for standard input.")],
    *,
    version: Annotated[int, typer.Option(min=0, help="Which it must become; 0: the next.")] = 0,
    tenant: Owner = "acme",
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Add a version to a prompt; the first makes the prompt."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        prompts.create(prompts.Registry(channel, tenant, as_json=as_json), file, version)


@prompts_app.command("list")
def list_(
    *,
    tenant: Owner = "acme",
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show a tenant's prompts and what their labels say."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        prompts.list_all(prompts.Registry(channel, tenant, as_json=as_json))


@prompts_app.command("show")
def show(  # noqa: PLR0913 - one parameter an option
    prompt: Annotated[str, typer.Argument(help="NAME, for the latest version, or NAME@VERSION.")],
    *,
    tenant: Owner = "acme",
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show a version, and where its prompt's labels have pointed."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        prompts.show(prompts.Registry(channel, tenant, as_json=as_json), prompt)


@prompts_app.command("label")
def label(  # noqa: PLR0913 - one parameter an option
    name: Name,
    said: Annotated[str, typer.Argument(help="production=3, or production=3:90,4:10.")],
    *,
    tenant: Owner = "acme",
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Point a label to a version, or to several by share."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        prompts.label(prompts.Registry(channel, tenant, as_json=as_json), name, said)


@prompts_app.command("rollback")
def rollback(  # noqa: PLR0913 - one parameter an option
    name: Name,
    label_name: Annotated[str, typer.Argument(metavar="LABEL", help="The label's.")],
    *,
    tenant: Owner = "acme",
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Point a label to what it said before its last move."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        prompts.roll_back(prompts.Registry(channel, tenant, as_json=as_json), name, label_name)
