"""High-risk requests keep to a pool of their own, and nothing that is done for them leaves it."""

from services.router.core.demands import WorkloadClass
from services.router.core.endpoints import Readiness
from services.router.core.models import Catalogue
from services.router.core.rungs import FallbackModel, Trigger
from services.router.core.salts import SaltSecret
from services.router.core.tenants import ClassRules, Tenant, Tenants
from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from services.router.inbound.mesh import Mesh
from tests.unit.router.values import (
    LIMITS,
    A,
    B,
    check_request,
    generate,
    headers_of,
    mesh,
    model,
    state,
    tenant,
)

HIGH_RISK, INTERACTIVE = 3, 1
CAREFUL = {WorkloadClass.HIGH_RISK: "careful"}
ALL = frozenset(WorkloadClass)


def whose(**changes: object) -> Tenant:
    return tenant(**{"workload_classes": ALL, "class_pools": CAREFUL, **changes})


def careful_mesh(one: Tenant, *, pool: str = "careful") -> Mesh:
    """A is shared, B is in a pool."""
    of = mesh(one)
    of.endpoints.saw(B, state(pool=pool))
    return of


def asked(of: Mesh, workload_class: int, **question: str) -> dict[str, str]:
    check = Check(of, LIMITS, grace_s=5.0, clock=lambda: 10.0)
    answer = check(check_request(generate(workload_class=workload_class), **question))
    assert isinstance(answer, Answer)
    return dict(headers_of(answer))


def endpoints_of(headers: dict[str, str]) -> set[str]:
    return set(headers["x-evenflow-endpoints"].split(","))


def test_high_risk_goes_to_the_pool_of_its_class_and_nothing_else_does() -> None:
    of = careful_mesh(whose())

    risky = asked(of, HIGH_RISK, x_request_id="risky")
    assert (risky["x-evenflow-pool"], endpoints_of(risky)) == ("careful", {B})
    other = asked(of, INTERACTIVE, x_request_id="other")
    assert "x-evenflow-pool" not in other
    assert endpoints_of(other) == {A}


def test_a_tenants_own_pool_wins() -> None:
    risky = asked(careful_mesh(whose(pool="vault"), pool="vault"), HIGH_RISK)

    assert (risky["x-evenflow-pool"], endpoints_of(risky)) == ("vault", {B})


def test_a_pool_of_the_class_that_is_away_is_replaced_by_no_other() -> None:
    of = careful_mesh(whose())
    of.endpoints.lost(B)

    assert "x-evenflow-endpoints" not in asked(of, HIGH_RISK)


def test_high_risk_has_a_salt_that_no_other_class_or_workload_has() -> None:
    of = careful_mesh(whose())
    peers = [f"spiffe://evenflow.local/tenant/acme/{each}" for each in ("web", "jobs")]

    salts = {
        (peer, each): asked(of, each, peer=peer, x_request_id=f"{peer} {each}")[
            "x-evenflow-cache-salt"
        ]
        for peer in peers
        for each in (HIGH_RISK, INTERACTIVE)
    }

    assert len(set(salts.values())) == 3
    assert salts[peers[0], INTERACTIVE] == salts[peers[1], INTERACTIVE]


def test_a_new_secret_is_a_new_salt_for_the_next_request() -> None:
    of = careful_mesh(whose())
    before = asked(of, INTERACTIVE, x_request_id="before")["x-evenflow-cache-salt"]

    of.salts.replaced(SaltSecret(b"another secret of the mesh", 1))

    assert asked(of, INTERACTIVE, x_request_id="after")["x-evenflow-cache-salt"] != before


def test_a_fallback_model_never_leaves_the_pool() -> None:
    """A, which is outside, could serve it; only B may."""
    ladder = (FallbackModel(Trigger.MODEL_UNHEALTHY, "tiny"),)
    one = whose(pool="vault", models=frozenset({"*"}))
    of = careful_mesh(one, pool="vault")
    rules = {WorkloadClass.INTERACTIVE: ClassRules(ladder=ladder)}
    of.policy.replaced(Tenants("v2", (one,), rules), 10.0)
    of.endpoints.saw(A, state(model(model="tiny")))
    broken = model(readiness=Readiness.FAILED)

    of.endpoints.saw(B, state(broken, pool="vault"))
    assert "x-evenflow-endpoints" not in asked(of, INTERACTIVE)
    of.endpoints.saw(B, state(broken, model(model="tiny"), pool="vault"))
    taken = asked(of, INTERACTIVE, x_request_id="again")

    assert endpoints_of(taken) == {B}
    assert taken["x-evenflow-model"] == "tiny"


def test_models_of_the_class_s_pool_are_listed_to_whom_they_serve() -> None:
    of = careful_mesh(whose())
    of.endpoints.saw(B, state(model(model="guard"), pool="careful"))
    everything = frozenset({"*"})

    def listed(to: Tenant) -> list[str]:
        return [each.name for each in Catalogue().served_to(to, of.endpoints.all())]

    assert listed(whose(models=everything)) == ["guard", "small"]
    harmless = frozenset({WorkloadClass.BATCH})
    assert listed(whose(models=everything, workload_classes=harmless)) == ["small"]
