"""What runs with a credential that is good no more is cut, wherever it may run, until it ends."""

import asyncio
from collections.abc import Callable

from services.router.core.credentials import Credential, Cut
from services.router.core.inflight import Slot
from services.router.core.picking import Candidate
from services.router.core.requests import Requests
from services.router.core.tenants import ApiKey, Tenants
from services.router.outbound.cutting import LOOK_EVERY_S, Allowed, follow
from tests import virtual_time
from tests.fakes.runtime_states import FakeRuntime
from tests.unit.router.values import WEB, A, B, decision, ended, tenant

END_S = 1_000.0
KEY = ApiKey(b"", "web", bytes(range(32)), END_S, "web-2")
BY_KEY, BY_CERTIFICATE = Credential(KEY), Credential(None, WEB, "77")


class Router:
    """What the loop needs of one."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.runtimes = {each: FakeRuntime(each) for each in (A, B)}
        self.tenants: Tenants | None = Tenants("v1", [tenant(api_keys=(KEY,))])
        self.revoked: set[str] = set()
        self.now_unix_s = 0.0

    def run(self, request_id: str, credential: Credential) -> None:
        order = [Candidate(each, "", 0, 0) for each in (A, B)]
        kept = decision(request_id, credential=credential, candidates=order)
        self.requests.admit(kept, Slot(A, 10, 1e9))
        self.runtimes[A].running.add(request_id)

    async def looks(self, count: float) -> None:
        allowed = Allowed(lambda: self.tenants, self.revoked.__contains__, lambda: self.now_unix_s)
        try:
            async with asyncio.timeout(count * LOOK_EVERY_S):
                await follow(self.requests, allowed, self.runtimes.__getitem__)
        except TimeoutError:
            return

    @property
    def left(self) -> set[str]:
        return self.runtimes[A].running


def after(change: Callable[[Router], None]) -> Router:
    """Both kinds of credential run; then something changes, and the loop looks again."""
    router = Router()
    router.run("by-key", BY_KEY)
    router.run("by-certificate", BY_CERTIFICATE)

    async def scenario() -> None:
        await router.looks(1.5)
        assert router.left == {"by-key", "by-certificate"}
        change(router)
        await router.looks(0.5)

    virtual_time.run(scenario())
    return router


def test_a_revoked_keys_requests_are_cut_at_every_endpoint() -> None:
    router = after(lambda of: setattr(of, "tenants", Tenants("v2", [tenant(api_keys=())])))

    assert router.left == {"by-certificate"}
    told = (frozenset({"by-key"}), Cut.API_KEY_REVOKED)
    assert [each.cuts for each in router.runtimes.values()] == [[told], [told]]


def test_an_expired_keys_requests_are_cut() -> None:
    assert after(lambda of: setattr(of, "now_unix_s", END_S)).left == {"by-certificate"}


def test_a_revoked_certificates_requests_are_cut() -> None:
    router = after(lambda of: of.revoked.add("77"))

    assert router.left == {"by-key"}
    assert router.runtimes[A].cuts[0][1] is Cut.CERTIFICATE_REVOKED


def test_a_tenant_that_leaves_takes_all_its_requests_along() -> None:
    other = tenant(id="globex", spiffe_ids=(), api_keys=())

    assert after(lambda of: setattr(of, "tenants", Tenants("v2", [other]))).left == set()


def test_a_policy_that_is_silent_cuts_nothing() -> None:
    router = after(lambda of: setattr(of, "tenants", None))

    assert router.left == {"by-key", "by-certificate"}


def test_a_runtime_out_of_reach_is_told_again_and_holds_nobody_up() -> None:
    class Dead(FakeRuntime):
        async def cut(self, request_ids: object, why: Cut, *, within_s: float) -> int:
            await asyncio.sleep(within_s)
            raise TimeoutError

    router = Router()
    router.runtimes[B] = Dead(B)
    router.now_unix_s = END_S
    router.run("by-key", BY_KEY)

    virtual_time.run(router.looks(2.5))

    assert len(router.runtimes[A].cuts) == 3


def test_what_has_ended_is_cut_no_more() -> None:
    router = Router()
    router.now_unix_s = END_S
    router.run("by-key", BY_KEY)
    router.requests.end(ended("by-key"))

    virtual_time.run(router.looks(2.5))

    assert router.runtimes[A].cuts == []
