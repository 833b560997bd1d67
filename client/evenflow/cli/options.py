"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path, typer.Option(envvar="EVENFLOW_HOME", help="What `make run` writes its certificates to.")
]
Tenant = Annotated[str, typer.Option(help="Whose certificate to use.")]
Workload = Annotated[str, typer.Option(help="Which workload of the tenant.")]
MeshPort = Annotated[int, typer.Option(envvar="EVENFLOW_MESH_PORT", help="Envoy's mesh listener.")]
RouterPort = Annotated[int, typer.Option(envvar="EVENFLOW_ROUTER_PORT", help="The operator port.")]
PolicyPort = Annotated[int, typer.Option(envvar="EVENFLOW_POLICY_PORT", help="Policy's port.")]
TelemetryPort = Annotated[int, typer.Option(envvar="EVENFLOW_TELEMETRY_PORT", help="Likewise.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Host = Annotated[str, typer.Option(envvar="EVENFLOW_HOST", help="Where the mesh runs.")]

DEFAULT_HOME = Path(".evenflow")
