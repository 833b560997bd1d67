import pytest

from services.chassis.identity import InvalidSpiffeId, SpiffeId


def test_reads_a_spiffe_id() -> None:
    parsed = SpiffeId.parse("spiffe://evenflow.local/tenant/acme/web")

    assert parsed == SpiffeId("evenflow.local", ("tenant", "acme", "web"))
    assert str(parsed) == "spiffe://evenflow.local/tenant/acme/web"


def test_only_a_service_path_names_a_service() -> None:
    assert SpiffeId.parse("spiffe://evenflow.local/service/router").service == "router"
    assert SpiffeId.parse("spiffe://evenflow.local/tenant/router").service is None
    assert SpiffeId.parse("spiffe://evenflow.local/service/router/x").service is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://evenflow.local/service/router",
        "spiffe:///service/router",
        "spiffe://Evenflow.local/service",
        "spiffe://evenflow.local/service//router",
        "spiffe://evenflow.local/service/",
        "spiffe://evenflow.local/../service",
        "spiffe://evenflow.local/a b",
        "spiffe://evenflow.local:1/a",
        "spiffe://user@evenflow.local/a",
        "spiffe://evenflow.local/a?b",
        "spiffe://evenflow.local/" + "a" * 2048,
    ],
)
def test_what_the_standard_forbids_is_nobody(text: str) -> None:
    with pytest.raises(InvalidSpiffeId):
        SpiffeId.parse(text)
