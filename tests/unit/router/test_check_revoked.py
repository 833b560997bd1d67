"""A revoked certificate on a connection that was open before: Envoy's handshake is long over."""

from dataclasses import replace

from services.router.inbound.answers import Answer
from services.router.inbound.check import Check
from tests.unit.router.values import LIMITS, check_request, mesh, on_front_end

REVOKED = "0f3828eb"


def answer(serial: str, *, front_end: bool = False) -> Answer:
    knowing = replace(mesh(), revoked=lambda serial: serial == REVOKED)
    question = check_request(x_evenflow_serial=serial)
    asked = on_front_end(question) if front_end else question
    answered = Check(knowing, LIMITS, grace_s=5.0, clock=lambda: 10.0)(asked)
    assert isinstance(answered, Answer)
    return answered


def test_its_next_request_is_refused() -> None:
    response = answer(REVOKED)

    assert response.status == 401
    assert dict(response.headers)["x-evenflow-reason"] == "CERTIFICATE_REVOKED"


def test_another_certificate_of_the_tenant_may_go() -> None:
    assert answer("77").status == 200


def test_on_the_front_end_no_serial_is_believed() -> None:
    assert answer(REVOKED, front_end=True).status == 200
