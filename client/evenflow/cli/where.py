"""Where the mesh is and with which certificates the command reaches it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import grpc

from evenflow.blocking import BlockingClient
from evenflow.cli.exits import NotThere
from evenflow.connection import Connection
from evenflow.home import service_folder, service_name, tenant_folder


@dataclass(frozen=True, slots=True)
class Where:
    host: str
    home: Path

    def mesh(self, port: int, tenant: str, workload: str) -> BlockingClient:
        """A client that speaks as a tenant's workload, through Envoy."""
        folder = tenant_folder(self.home, tenant, workload)
        _check(folder, f"`evenflow certs issue {tenant} --workload {workload}` makes one")
        return BlockingClient(f"{self.host}:{port}", certificate_folder=folder)

    def service(self, service: str, port: int) -> AbstractContextManager[grpc.Channel]:
        """A channel to one of the services, as operator."""
        folder = service_folder(self.home, "operator")
        _check(folder, "`make run` makes it")
        reached = Connection(f"{self.host}:{port}", folder, service_name(service))
        return reached.blocking_channel()


def _check(folder: Path, remedy: str) -> None:
    if not (folder / "cert.pem").exists():
        raise NotThere(
            f"there is no certificate in {folder}; {remedy} (EVENFLOW_HOME names another folder)"
        )
