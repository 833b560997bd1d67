"""Every command of `evenflow policy` and its options; what they do is in modules beside this."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import grpc
import typer

from evenflow.cli import policy, policy_diff, policy_versions, shadow
from evenflow.cli.exits import exits_cleanly
from evenflow.cli.options import DEFAULT_HOME, AsJson, Home, Host, PolicyPort
from evenflow.cli.where import Where
from evenflow.errors import FailedCall, error_of

policy_app = typer.Typer(no_args_is_help=True)
shadow_app = typer.Typer(no_args_is_help=True)
policy_app.add_typer(shadow_app, name="shadow", help="A candidate that decides nothing.")

File = Annotated[Path, typer.Argument(help="YAML; - for standard input.")]
Version = Annotated[str, typer.Argument(help="Its first 8 digits are enough.")]


@contextmanager
def _reached(home: Path, host: str, port: int) -> Iterator[grpc.Channel]:
    with exits_cleanly(), Where(host=host, home=home).service("policy", port) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise error_of(cast(FailedCall, error)) from error


@policy_app.command("check")
def check_policy(
    file: File,
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Say what is wrong with a policy, by line and column, before it is put into force."""
    with _reached(home, host, policy_port) as channel:
        policy.check(channel, file, as_json=as_json)


@policy_app.command("schema")
def print_policy_schema() -> None:
    """Print the JSON schema of the file, by which editors complete it."""
    typer.echo(policy.schema(), nl=False)


@policy_app.command("diff")
def diff_policy(
    file: File,
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show what a policy would change, and for which of the last day's requests."""
    with _reached(home, host, policy_port) as channel:
        policy_diff.diff(channel, file, as_json=as_json)


@policy_app.command("versions")
def list_versions(
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show what is in force, what was, and whether a version is pinned."""
    with _reached(home, host, policy_port) as channel:
        policy_versions.versions(channel, as_json=as_json)


@policy_app.command("show")
def show_version(
    version: Version,
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Print the content of a version that was in force."""
    with _reached(home, host, policy_port) as channel:
        policy_versions.show(channel, version)


@policy_app.command("rollback")
def roll_back(
    version: Version,
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Put an earlier version into force until the file changes; the file is not touched."""
    with _reached(home, host, policy_port) as channel:
        policy_versions.roll_back(channel, version)


@policy_app.command("follow")
def follow_file(
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """End a rollback: put what the file says into force."""
    with _reached(home, host, policy_port) as channel:
        policy_versions.follow(channel)


@shadow_app.command("set")
def set_shadow(
    file: File,
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Have routers judge by this policy, too, and count what it would decide otherwise."""
    with _reached(home, host, policy_port) as channel:
        shadow.set_(channel, file)


@shadow_app.command("status")
def show_shadow(
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show how many requests the candidate would have decided otherwise, and how."""
    with _reached(home, host, policy_port) as channel:
        shadow.status(channel, as_json=as_json)


@shadow_app.command("clear")
def clear_shadow(
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """End the trial."""
    with _reached(home, host, policy_port) as channel:
        shadow.clear(channel)
