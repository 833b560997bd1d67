"""`evenflow policy` and `evenflow tenants`: what they print, and return to the shell."""

import json
from pathlib import Path

from typer.testing import Result

from evenflow.cli.policy import MOST_BYTES
from evenflow.inference.v1 import workload_class_pb2 as classes
from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2 as tenants
from tests.unit.client.scripted_mesh import Script, scripted_mesh
from tests.unit.client.test_command import evenflow, home_of

PROBLEM = pb.PolicyProblem(line=9, column=5, field="tenants[0].model", message="unknown field")
GOOD = pb.CheckPolicyResponse(version="ab" * 32, tenants=2)


def check(said: pb.CheckPolicyResponse, folder: Path, *arguments: str, stdin: str = "") -> Result:
    with scripted_mesh(Script(checked=said), folder, service="policy") as mesh:
        home, port = home_of(mesh, folder), ("--policy-port", str(mesh.port))
        return evenflow("policy", "check", *arguments, *port, home=home, stdin=stdin)


def file_of(folder: Path, content: bytes = b"tenants: []") -> str:
    file = folder / "tenants.yaml"
    file.write_bytes(content)
    return str(file)


def test_a_good_one_is_said_to_be(tmp_path: Path) -> None:
    file = file_of(tmp_path)

    result = check(GOOD, tmp_path, file)

    assert result.exit_code == 0
    assert result.stdout == f"{file}: good, 2 tenants, version abababababab (not in force)\n"


def test_the_one_in_force_is_said_to_be(tmp_path: Path) -> None:
    said = pb.CheckPolicyResponse(version="ab" * 32, tenants=2, in_force=True)

    assert "(in force)" in check(said, tmp_path, file_of(tmp_path)).stdout


def test_warnings_are_printed_and_refuse_nothing(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    doubtful = pb.PolicyProblem(line=2, column=5, field="tenants[0]", message="has no pool")
    said = pb.CheckPolicyResponse(version="ab" * 32, tenants=2, warnings=[doubtful])

    result = check(said, tmp_path, file)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{file}:2:5: warning: tenants[0]: has no pool",
        f"{file}: good, 2 tenants, version abababababab (not in force)",
    ]


def test_problems_are_printed_where_editors_look_for_them(tmp_path: Path) -> None:
    file, whole = file_of(tmp_path), pb.PolicyProblem(line=1, column=1, message="not UTF-8")
    said = pb.CheckPolicyResponse(problems=[PROBLEM, whole], more_problems=7)

    result = check(said, tmp_path, file)

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{file}:9:5: tenants[0].model: unknown field",
        f"{file}:1:1: not UTF-8",
        f"{file}: and 7 more",
    ]


def test_scripts_get_json(tmp_path: Path) -> None:
    said = pb.CheckPolicyResponse(problems=[PROBLEM])

    result = check(said, tmp_path, "--json", "-", stdin="tenants: [{}]")

    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "file": "-",
        "problems": [
            {"line": 9, "column": 5, "field": "tenants[0].model", "message": "unknown field"}
        ],
        "more_problems": 0,
        "version": "",
        "tenants": 0,
        "in_force": False,
        "warnings": [],
    }


def test_the_file_arrives_byte_for_byte(tmp_path: Path) -> None:
    script = Script(checked=GOOD)
    content = b"\xef\xbb\xbftenants: []\r\n\xff"

    with scripted_mesh(script, tmp_path, service="policy") as mesh:
        port = ("--policy-port", str(mesh.port))
        file = file_of(tmp_path, content)
        evenflow("policy", "check", file, *port, home=home_of(mesh, tmp_path))

    assert script.policies == [content]


def test_what_is_too_large_or_not_there_is_not_sent(tmp_path: Path) -> None:
    script = Script(checked=GOOD)

    with scripted_mesh(script, tmp_path, service="policy") as mesh:
        home, port = home_of(mesh, tmp_path), ("--policy-port", str(mesh.port))
        large = file_of(tmp_path, bytes(MOST_BYTES + 1))
        too_large = evenflow("policy", "check", large, *port, home=home)
        missing = evenflow("policy", "check", str(tmp_path / "none"), *port, home=home)

    assert (too_large.exit_code, missing.exit_code) == (2, 2)
    assert f"at most {MOST_BYTES} bytes" in " ".join(too_large.stderr.split())
    assert not script.policies


def test_without_a_mesh_it_says_so(tmp_path: Path) -> None:
    with scripted_mesh(Script(), tmp_path, service="policy") as mesh:
        home, port = home_of(mesh, tmp_path), ("--policy-port", str(mesh.port))

    result = evenflow("policy", "check", file_of(tmp_path), *port, home=home)

    assert result.exit_code == 69
    assert "can't be reached" in result.stderr


def test_the_schema_is_printed(tmp_path: Path) -> None:
    result = evenflow("policy", "schema", home=tmp_path)

    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "Evenflow policy"


KNOWN = tenants.WatchTenantsResponse(
    version="v7",
    tenants=[
        tenants.Tenant(
            id="globex",
            models=["*"],
            workload_classes=[classes.WORKLOAD_CLASS_BATCH],
            default_workload_class=classes.WORKLOAD_CLASS_BATCH,
            weight=2,
            pool="vault",
        ),
        tenants.Tenant(
            id="acme",
            spiffe_ids=["spiffe://evenflow.local/tenant/acme/*"],
            api_keys=[tenants.ApiKey(id="web", sha256=bytes(32), workload="web")],
            models=["tiny", "large"],
            workload_classes=[classes.WORKLOAD_CLASS_BATCH, classes.WORKLOAD_CLASS_INTERACTIVE],
            default_workload_class=classes.WORKLOAD_CLASS_INTERACTIVE,
            max_context_tokens=2048,
            limits=tenants.TenantLimits(requests_per_minute=60, kv_share=0.25),
        ),
    ],
)


def listed(folder: Path, *arguments: str) -> Result:
    with scripted_mesh(Script(known=KNOWN), folder, service="policy") as mesh:
        home, port = home_of(mesh, folder), ("--policy-port", str(mesh.port))
        return evenflow("tenants", *arguments, *port, home=home)


def test_tenants_are_shown_by_name_with_what_they_may(tmp_path: Path) -> None:
    result = listed(tmp_path)

    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["acme", "tiny,", "large", "interactive,", "batch", "2048", "-", "1", "-"] in rows
    assert ["globex", "*", "batch", "-", "-", "2", "vault"] in rows
    assert "policy version v7" in result.stdout


def test_limits_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [line.split() for line in listed(tmp_path).stdout.splitlines()]

    assert ["acme", "60", "-", "-", "0.25"] in rows
    assert [row[0] for row in rows if row].count("globex") == 1


def test_scripts_get_limits_as_json(tmp_path: Path) -> None:
    said = json.loads(listed(tmp_path, "--json").stdout)

    assert said["tenants"][0]["limits"] == {
        "requests_per_minute": 60,
        "tokens_per_minute": 0,
        "concurrent_requests": 0,
        "kv_share": 0.25,
    }


def test_scripts_get_tenants_as_json_and_no_hash(tmp_path: Path) -> None:
    result = listed(tmp_path, "--json")

    said = json.loads(result.stdout)
    assert (said["version"], [each["id"] for each in said["tenants"]]) == ("v7", ["acme", "globex"])
    assert said["tenants"][0]["api_keys"] == [{"id": "web", "workload": "web"}]
    assert said["tenants"][0]["spiffe_ids"] == ["spiffe://evenflow.local/tenant/acme/*"]
