"""The data plane as a value: what can't be said can't be served."""

import pytest

from services.router.core.snapshot import DataPlane, HostPort, TlsMaterial

HERE = HostPort("127.0.0.1", 8443)
THERE = HostPort("127.0.0.1", 8080)


@pytest.mark.parametrize("text", ["127.0.0.1:8443", "localhost:1", "[::1]:65535"])
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    assert str(HostPort.parse(text)) == text


@pytest.mark.parametrize("text", ["", "127.0.0.1", "host:", ":1", "a:b", "h:0", "h:65536", "::1:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port|a port is 1 to 65535"):
        HostPort.parse(text)


def test_two_listeners_do_not_share_an_address() -> None:
    with pytest.raises(ValueError, match="both listeners"):
        DataPlane(trust_domain="t", mesh=HERE, front_end=HERE, descriptors=b"")


def test_a_share_is_part_of_a_whole() -> None:
    with pytest.raises(ValueError, match=r"0 to 1, got 1\.5"):
        DataPlane(trust_domain="t", mesh=HERE, front_end=THERE, descriptors=b"", trace_share=1.5)


def test_a_key_is_not_printed() -> None:
    assert "secret" not in repr(TlsMaterial(b"certificate", b"secret", b"authorities"))
