"""The `evenflow` command: what it prints, and what it returns to the shell."""

import os
import shutil
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner, Result

from evenflow.certificates import make_authority
from evenflow.cli.chat import Clock, summary
from evenflow.cli.commands import app
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.router.v1 import router_service_pb2 as router
from evenflow.runtime.v1 import runtime_service_pb2 as runtime
from tests.unit.client.scripted_mesh import (
    FINISHED,
    STARTED,
    Script,
    ScriptedMesh,
    breaks,
    refuses,
    scripted_mesh,
)


def evenflow(*arguments: str, home: Path, stdin: str = "") -> Result:
    environ = {"EVENFLOW_HOME": str(home), "COLUMNS": "80"}
    return CliRunner().invoke(app, arguments, env=environ, input=stdin)


def home_of(mesh: ScriptedMesh, folder: Path) -> Path:
    """A home folder as `make run` leaves it, with this mesh's certificates."""
    home = folder / "home"
    shutil.copytree(mesh.certificates, home / "certs/tenants/acme/web", symlinks=True)
    operator = mesh.identities.service("operator").certificate.parent
    shutil.copytree(operator, home / "certs/operator", symlinks=True)
    return home


def chat(script: Script, folder: Path, *arguments: str, stdin: str = "") -> Result:
    with scripted_mesh(script, folder) as mesh:
        port = ("--mesh-port", str(mesh.port))
        return evenflow("chat", *arguments, *port, home=home_of(mesh, folder), stdin=stdin)


def test_chat_streams_an_answer_and_says_what_it_took(tmp_path: Path) -> None:
    script = Script()

    result = chat(script, tmp_path, "Hello?")

    assert result.exit_code == 0
    assert result.stdout == "Hello there\n"
    assert "TTFT" in result.stderr
    assert "request r-1" in result.stderr
    assert script.requests[0].chat.messages[0].content == "Hello?"


def test_chat_reads_a_pipe(tmp_path: Path) -> None:
    script = Script()

    assert chat(script, tmp_path, stdin="From a file").exit_code == 0
    assert script.requests[0].chat.messages[0].content == "From a file"


def test_unset_options_are_left_to_the_mesh(tmp_path: Path) -> None:
    script = Script()

    chat(script, tmp_path, "Hello?", "--max-output-tokens", "7")

    assert script.requests[0].sampling == pb.Sampling(max_output_tokens=7)


def test_what_was_degraded_is_shown() -> None:
    started = pb.Started(degradations=[pb.Degradation(rung="smaller_output", reason="saturated")])

    lines = list(summary(started, pb.Finished(), Clock(asked_s=0.0)))

    assert "degraded: smaller_output, because saturated" in lines


def test_ttft_and_rate_are_measured_from_the_question() -> None:
    lines = list(summary(STARTED, FINISHED, Clock(asked_s=1.0, first_s=1.25, last_s=1.75)))

    assert lines[0].startswith("TTFT 250 ms, 2 tokens in 0.8 s, 2 tokens/s;")


def test_a_refusal_exits_with_1_and_says_when_to_come_back(tmp_path: Path) -> None:
    refusal = refuses(
        grpc.StatusCode.UNAVAILABLE, "NO_ENDPOINT", "nothing can serve it now", retry_after_s=2
    )

    result = chat(Script(before=refusal), tmp_path, "Hello?")

    assert result.exit_code == 1
    assert "NO_ENDPOINT: nothing can serve it now" in result.stderr
    assert "Come back in 2 s." in result.stderr


def test_a_lost_stream_is_worth_another_try(tmp_path: Path) -> None:
    reset = breaks(grpc.StatusCode.INTERNAL, "RST_STREAM")

    result = chat(Script(after=reset), tmp_path, "Hello?")

    assert result.exit_code == os.EX_TEMPFAIL
    assert "the stream broke after 2 tokens" in result.stderr


def test_a_mesh_that_is_down_exits_with_unavailable(tmp_path: Path) -> None:
    with scripted_mesh(Script(), tmp_path) as mesh:
        home = home_of(mesh, tmp_path)

    result = evenflow("chat", "Hello?", "--mesh-port", str(mesh.port), home=home)

    assert result.exit_code == os.EX_UNAVAILABLE
    assert "Is `make run` up" in result.stderr


def test_a_missing_certificate_says_how_to_get_one(tmp_path: Path) -> None:
    result = evenflow("chat", "Hello?", "--tenant", "nobody", home=tmp_path)

    assert result.exit_code == os.EX_CONFIG
    assert "evenflow certs issue nobody" in result.stderr


def test_status_shows_services_endpoints_and_load(tmp_path: Path) -> None:
    model = runtime.ModelState(model="smollm2", version="v1", readiness=runtime.READINESS_LOADING)
    state = runtime.WatchStateResponse(
        engine="llamacpp",
        models=[model],
        running=3,
        max_running=8,
        kv_blocks_total=100,
        kv_blocks_free=75,
        prefix_cache_query_tokens=200,
        prefix_cache_hit_tokens=100,
    )
    endpoint = router.Endpoint(
        address="127.0.0.1:9101", reachable=True, state=state, in_flight_tokens=7
    )
    ejected = router.Endpoint(
        address="127.0.0.1:9102", reachable=True, ready=True, left_out="ejected: slow"
    )
    seen = router.ListEndpointsResponse(policy_version="v7", endpoints=[endpoint, ejected])

    with scripted_mesh(Script(endpoints=seen), tmp_path, service="router") as mesh:
        ports = [f"--{name}-port={mesh.port}" for name in ("router", "policy", "telemetry")]
        result = evenflow("status", *ports, home=home_of(mesh, tmp_path))

    assert result.exit_code == 0
    endpoint_row = next(line for line in result.stdout.splitlines() if "127.0.0.1:9101" in line)
    model_row = next(line for line in result.stdout.splitlines() if "smollm2" in line)
    assert endpoint_row.split() == [
        "127.0.0.1:9101",
        "not",
        "ready",
        "3/8",
        "0",
        "7",
        "tokens",
        "25%",
        "50%",
    ]
    assert "127.0.0.1:9102   ejected " in result.stdout
    assert model_row.split() == ["smollm2", "v1", "llamacpp", "loading", "1"]
    assert "policy version v7" in result.stdout


def test_explain_tells_a_request_s_story(tmp_path: Path) -> None:
    explained = router.ExplainResponse(
        request_id="r-1",
        tenant="acme",
        workload="web",
        model="smollm2",
        candidates=[
            router.ExplainResponse.Candidate(
                address="b:2", cost=-81.5, expected_cached_tokens=128, kv_missing_tokens=7
            ),
            router.ExplainResponse.Candidate(address="a:1", left_out="draining"),
        ],
        other_candidates={"unreachable": 990},
        queue_reason="behind others",
        queue_band="batch",
        queued_ahead=12,
        outcome=router.ExplainResponse.Outcome(endpoint="b:2", grpc_code=4, attempts=1),
        other_attempts=[
            router.ExplainResponse.Attempt(
                number=2,
                endpoint="c:3",
                prompt_tokens=20,
                output_tokens=7,
                end=runtime.ATTEMPT_END_MID_STREAM,
            )
        ],
        hedge_delay=Duration(nanos=120_000_000),
        hedge_sent=True,
        winning_attempt=2,
        degradations=[pb.Degradation(rung="smaller_output", reason="saturated")],
        skipped_rungs=["fallback_model=saturated: tenant acme may not use tiny"],
        cache="miss",
        resumed_tokens=7,
    )

    with scripted_mesh(Script(explained=explained), tmp_path, service="router") as mesh:
        home, port = home_of(mesh, tmp_path), ("--router-port", str(mesh.port))
        result = evenflow("explain", "r-1", *port, home=home)
        unknown = evenflow("explain", "r-2", *port, home=home)

    assert "by acme/web" in result.stdout
    assert "cache     miss" in result.stdout
    assert "after 7 tokens" in result.stdout
    assert "DEADLINE_EXCEEDED" in result.stdout
    assert "hedged    after 120 ms, attempt 2 answered" in result.stdout
    assert "draining" in result.stdout
    assert "behind others, in the band batch, 12 ahead" in result.stdout
    assert "attempt 2 by c:3, after its first token: 20 prompt tokens" in result.stdout
    assert "-82" in result.stdout
    assert "lacks 7 of KV" in result.stdout
    assert "and 990 more: unreachable" in result.stdout
    assert "degraded  smaller_output, because saturated" in result.stdout
    assert "tenant acme may not use tiny" in result.stdout
    assert (unknown.exit_code, "REQUEST_NOT_FOUND" in unknown.stderr) == (1, True)


def test_certs_issue_writes_a_folder_that_works(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")

    result = evenflow("certs", "issue", "initech", "--workload", "nightly", home=tmp_path)

    assert result.exit_code == 0
    assert "spiffe://evenflow.local/tenant/initech/nightly" in result.stdout
    assert (tmp_path / "certs/tenants/initech/nightly/cert.pem").exists()


@pytest.mark.parametrize("tenant", ["../acme", "Acme", "a/b", ""])
def test_certs_issue_takes_only_names_of_tenants(tenant: str, tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")

    assert evenflow("certs", "issue", tenant, home=tmp_path).exit_code == 2
    assert not (tmp_path / "certs").exists()


def test_certs_issue_without_an_authority_says_who_makes_it(tmp_path: Path) -> None:
    result = evenflow("certs", "issue", "acme", home=tmp_path)

    assert result.exit_code == os.EX_CONFIG
    assert "`make run` makes it" in result.stderr


def test_certs_revoke_puts_the_list_into_every_folder(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")
    for tenant in ("acme", "globex"):
        evenflow("certs", "issue", tenant, home=tmp_path)
    acme, globex = (tmp_path / "certs/tenants" / tenant / "web" for tenant in ("acme", "globex"))

    results = [evenflow("certs", "revoke", str(acme), home=tmp_path) for _ in range(2)]

    certificate = x509.load_pem_x509_certificate((acme / "cert.pem").read_bytes())
    assert [each.exit_code for each in results] == [0, 0]
    assert "spiffe://evenflow.local/tenant/acme/web" in results[0].stdout
    for folder in (acme, globex):
        (revoked,) = x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
        assert revoked.serial_number == certificate.serial_number
        assert (folder / "key.pem").exists()


@pytest.mark.parametrize("certificate", ["nowhere", "text"])
def test_certs_revoke_takes_only_a_certificate(certificate: str, tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")
    (tmp_path / "text").write_text("half a certificate")

    result = evenflow("certs", "revoke", str(tmp_path / certificate), home=tmp_path)

    assert result.exit_code == os.EX_CONFIG
    assert certificate in result.stderr


def test_certs_revoke_without_an_authority_says_who_makes_it(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca")
    evenflow("certs", "issue", "acme", home=tmp_path)
    shutil.rmtree(tmp_path / "ca")

    result = evenflow("certs", "revoke", str(tmp_path / "certs/tenants/acme/web"), home=tmp_path)

    assert result.exit_code == os.EX_CONFIG
    assert "`make run` makes it" in result.stderr
