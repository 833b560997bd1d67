"""The service as a process: records and spans in, metrics and walled spans out."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from deploy.local.aside import free_port
from services.chassis.identity import TlsFiles, channel
from tests import processes
from tests.contract.test_collector import Servicer
from tests.fakes.collector import FakeCollector
from tests.identities import Identities
from tests.unit.telemetry.observations import record
from tests.unit.telemetry.test_metrics_page import ask, client
from tests.unit.telemetry.test_servicers import export, report


def environ(tmp_path: Path, ports: tuple[int, int], collector_port: int) -> dict[str, str]:
    return {
        "TELEMETRY_LISTEN": f"127.0.0.1:{ports[0]}",
        "TELEMETRY_PROMETHEUS_LISTEN": f"127.0.0.1:{ports[1]}",
        "TELEMETRY_TLS": str(tmp_path / "service/telemetry"),
        "TELEMETRY_OTLP_FORWARD": f"127.0.0.1:{collector_port}",
        "TELEMETRY_OTLP_FORWARD_TLS": "off",
    }


async def collecting(collector: FakeCollector) -> tuple[Any, int]:
    server = grpc.aio.server()
    pb_grpc.add_TraceServiceServicer_to_server(Servicer(collector), server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def work(where: str, router: TlsFiles) -> None:
    await processes.serving(where, router, server="telemetry")
    async with channel(where, router, server="telemetry") as calls:
        await report(calls, record())
        await export(calls)


def test_records_become_metrics_and_spans_go_on(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    tls, router = identities.service("telemetry"), identities.service("router")
    scraper: ssl.SSLContext = client(tls, identities.service("operator"))
    ports = free_port(), free_port()

    async def scenario() -> tuple[str, list[str], int]:
        collector = FakeCollector()
        server, port = await collecting(collector)
        async with processes.service(
            "services.telemetry", environ(tmp_path, ports, port)
        ) as process:
            await work(f"127.0.0.1:{ports[0]}", router)
            async with asyncio.timeout(10):
                await collector.took.wait()
            page = await ask(ports[1], scraper)
            process.terminate()
            code = await process.wait()
        await server.stop(None)
        return page, collector.taken, code

    page, taken, code = asyncio.run(scenario())

    assert 'evenflow_requests_total{code="OK",model="smollm2"' in page
    assert (taken, code) == (["chat"], 0)
