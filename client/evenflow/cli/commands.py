"""Every command and its options; what they do is in the modules beside this one."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from evenflow.cli import (
    audit_commands,
    budgets,
    certs,
    chat,
    explain,
    keys,
    salts,
    status,
    tenants,
)
from evenflow.cli.durations import duration
from evenflow.cli.exits import exits_cleanly
from evenflow.cli.options import (
    DEFAULT_HOME,
    AsJson,
    Home,
    Host,
    MeshPort,
    PolicyPort,
    RouterPort,
    TelemetryPort,
    Tenant,
    Workload,
)
from evenflow.cli.policy_commands import policy_app
from evenflow.cli.prompt_commands import prompts_app
from evenflow.cli.where import Where
from evenflow.home import WORKLOAD
from evenflow.policy.v1 import key_service_pb2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
certs_app = typer.Typer(no_args_is_help=True)
app.add_typer(certs_app, name="certs", help="Development certificates.")
app.add_typer(policy_app, name="policy", help="Who may do what: the policy's file.")
app.add_typer(prompts_app, name="prompts", help="Named prompts, their versions and labels.")
app.add_typer(audit_commands.app, name="audit", help="Who did what: the audit log.")
budget_app = typer.Typer(no_args_is_help=True)
app.add_typer(budget_app, name="budget", help="What tenants may spend, and have spent.")
keys_app = typer.Typer(no_args_is_help=True)
app.add_typer(keys_app, name="keys", help="API keys, for callers without a certificate.")

salts_app = typer.Typer(no_args_is_help=True)
app.add_typer(salts_app, name="salts", help="What keeps tenants apart in every cache.")

KeyTenant = Annotated[str, typer.Argument(help="Whose key.")]
KeyId = Annotated[str, typer.Argument(help="The key's name, as `evenflow keys list` shows it.")]
Lifetime = Annotated[
    Duration | None, typer.Option(parser=duration, metavar="90d", help="Good for so long.")
]
Overlap = Annotated[
    Duration,
    typer.Option(parser=duration, metavar="24h", help="The old secret stays good for so long."),
]


@app.command("chat")
def chat_(  # noqa: PLR0913 - one parameter an option
    message: Annotated[str | None, typer.Argument(help="Without one: a conversation.")] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Default: the first that is served.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="Of each answer.")] = 120.0,
    tenant: Tenant = "acme",
    workload: Workload = WORKLOAD,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    mesh_port: MeshPort = 8443,
) -> None:
    """Stream an answer, or hold a conversation."""
    where = Where(host=host, home=home)
    asked = chat.Asked(model, max_output_tokens, temperature, deadline_s)
    with exits_cleanly(), where.mesh(mesh_port, tenant, workload) as client:
        chat.chat(client, asked, message)


@app.command("status")
def status_(
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    router_port: RouterPort = 9010,
    policy_port: PolicyPort = 9020,
    telemetry_port: TelemetryPort = 9030,
) -> None:
    """Show services, endpoints, models and their load."""
    where = Where(host=host, home=home)
    ports = {"router": router_port, "policy": policy_port, "telemetry": telemetry_port}
    with exits_cleanly():
        status.status(where, ports)


@app.command("explain")
def explain_(
    request_id: Annotated[str, typer.Argument(help="As `chat` shows it, or a log line.")],
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    router_port: RouterPort = 9010,
) -> None:
    """Say why a request went where it went, and how it ended."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("router", router_port) as channel:
        explain.explain(channel, request_id)


@app.command("tenants")
def tenants_(
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show who may do what, as routers are told."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        tenants.tenants(channel, as_json=as_json)


@budget_app.command("list")
def list_budgets(
    tenant: Annotated[str, typer.Argument(help="Whose; left out: all.")] = "",
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show what each budget has spent in its present window, and what routers hold of it."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        budgets.list_budgets(channel, tenant, as_json=as_json)


@budget_app.command("forget-runtime")
def forget_runtime(
    endpoint: Annotated[str, typer.Argument(help="As `evenflow status` showed it, host:port.")],
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Wait no longer for what a runtime has not told: it is gone for good, disk and all."""
    where = Where(host=host, home=home)
    with exits_cleanly(), where.service("policy", policy_port) as channel:
        budgets.forget_runtime(channel, endpoint)


@certs_app.command("issue")
def issue(
    tenant: Annotated[str, typer.Argument(help="Lower-case letters, digits and -.")],
    *,
    workload: Workload = WORKLOAD,
    folder: Annotated[Path | None, typer.Option(help="Default: beside the others.")] = None,
    days: Annotated[int, typer.Option(min=1, max=365)] = 30,
    home: Home = DEFAULT_HOME,
) -> None:
    """Issue a certificate for a tenant's workload, by the development authority."""
    with exits_cleanly():
        certs.issue_for(tenant, workload, home=home, folder=folder, days=days)


@certs_app.command("revoke")
def revoke(
    certificate: Annotated[Path, typer.Argument(help="A cert.pem, or the folder that holds it.")],
    *,
    home: Home = DEFAULT_HOME,
) -> None:
    """Have a certificate refused on every new connection, before its end."""
    with exits_cleanly():
        certs.revoke_certificate(certificate, home=home)


@salts_app.command("rotate")
def rotate_salts(*, home: Home = DEFAULT_HOME) -> None:
    """Begin a new epoch of cache salts: routers forget every prefix and answer within 2 s."""
    with exits_cleanly():
        salts.rotate(home)


@keys_app.command("create")
def create_key(  # noqa: PLR0913 - one parameter an option
    tenant: KeyTenant,
    *,
    workload: Annotated[str, typer.Option(help="What the key stands for.")],
    id_: Annotated[str, typer.Option("--id", help="Its name; default: one of its own.")] = "",
    expires: Lifetime = None,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Make a key. Its secret alone goes to standard output, once."""
    asked = key_service_pb2.CreateKeyRequest(
        tenant=tenant, workload=workload, id=id_, **keys.lifetime(expires)
    )
    with exits_cleanly(), Where(host=host, home=home).service("policy", policy_port) as channel:
        keys.create(channel, asked)


@keys_app.command("rotate")
def rotate_key(  # noqa: PLR0913 - one parameter an option
    tenant: KeyTenant,
    id_: KeyId,
    *,
    overlap: Overlap = "0s",  # type: ignore[assignment] # read as if it were typed
    expires: Lifetime = None,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Make another secret for a key. It alone goes to standard output, once."""
    asked = key_service_pb2.RotateKeyRequest(
        tenant=tenant, id=id_, overlap=overlap, **keys.lifetime(expires)
    )
    with exits_cleanly(), Where(host=host, home=home).service("policy", policy_port) as channel:
        keys.rotate(channel, asked)


@keys_app.command("revoke")
def revoke_key(
    tenant: KeyTenant,
    id_: KeyId,
    *,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """End a key at once, with the streams that came with it."""
    with exits_cleanly(), Where(host=host, home=home).service("policy", policy_port) as channel:
        keys.revoke(channel, tenant, id_)


@keys_app.command("list")
def list_keys(
    tenant: Annotated[str, typer.Argument(help="Without one: all of them.")] = "",
    *,
    as_json: AsJson = False,
    home: Home = DEFAULT_HOME,
    host: Host = "127.0.0.1",
    policy_port: PolicyPort = 9020,
) -> None:
    """Show keys and what they are good for; never a secret."""
    with exits_cleanly(), Where(host=host, home=home).service("policy", policy_port) as channel:
        keys.list_keys(channel, tenant, as_json=as_json)
