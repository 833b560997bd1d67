from hypothesis import given
from hypothesis import strategies as st

from services.router.core.bands import Band
from services.router.core.exchange import (
    AT_MOST,
    FORGIVEN_S,
    Account,
    Change,
    Peer,
    PeerWord,
    Telling,
)
from services.router.core.fairness import Turns
from tests.unit.router.values import SMALL

TENANTS = ("acme", "globex")


def account(tenant: str = "acme", served: float = 0.0, *, waits: bool = False) -> Account:
    return Account(SMALL, Band.INTERACTIVE, tenant, served, waits)


def word(*accounts: Account, instance_id: str = "first") -> PeerWord:
    return PeerWord(instance_id, accounts)


def change(tenant: str = "acme", given: float = 0.0, waits: int = 0) -> Change:
    return Change(SMALL, Band.INTERACTIVE, tenant, given, waits)


def known(*accounts: Account) -> Peer:
    peer = Peer()
    peer.heard(word(*accounts), 0.0)
    return peer


def test_what_was_given_before_the_first_word_is_forgiven() -> None:
    assert Peer().heard(word(account(served=1e9)), 0.0) == []


def test_what_was_given_since_the_last_word_is_charged() -> None:
    peer = known(account(served=100.0))

    assert peer.heard(word(account(served=130.0)), 1.0) == [change(given=30.0)]
    assert peer.heard(word(account(served=120.0)), 2.0) == [change(given=-10.0)]
    assert peer.heard(word(account("globex", served=7.0)), 3.0) == [change("globex", 7.0)]


@given(
    st.lists(st.tuples(st.sampled_from(TENANTS), st.floats(0.0, 100.0)), max_size=20),
    st.data(),
)
def test_lost_and_repeated_words_change_nothing(
    gifts: list[tuple[str, float]], data: st.DataObject
) -> None:
    served, peer, charged = dict.fromkeys(TENANTS, 0.0), known(), dict.fromkeys(TENANTS, 0.0)
    for tenant, gift in gifts:
        served[tenant] += gift
        for _ in range(data.draw(st.integers(0, 2))):
            for each in peer.heard(word(account(tenant, served[tenant])), 1.0):
                charged[each.tenant] += each.given
    for each in peer.heard(word(*(account(*each) for each in served.items())), 1.0):
        charged[each.tenant] += each.given

    assert all(abs(charged[tenant] - served[tenant]) < 1e-6 for tenant in TENANTS)


def test_who_waits_there_is_told_once() -> None:
    peer = known()

    assert peer.heard(word(account(waits=True)), 1.0) == [change(waits=1)]
    assert peer.heard(word(account(waits=True)), 1.1) == []
    assert peer.heard(word(account(waits=False)), 1.2) == [change(waits=-1)]


def test_nobody_waits_at_a_peer_that_is_away() -> None:
    peer = known(account(waits=True), account("globex"))

    assert peer.lost(1.0) == [change(waits=-1)]
    assert peer.lost(2.0) == []


def test_a_short_absence_forgives_nothing() -> None:
    peer = known(account(served=100.0, waits=True))
    peer.lost(1.0)

    came_back = peer.heard(word(account(served=150.0, waits=True)), 1.0 + FORGIVEN_S)

    assert came_back == [change(given=50.0, waits=1)]


def test_a_long_absence_forgives_what_was_given_meanwhile() -> None:
    peer = known(account(served=100.0))
    peer.lost(1.0)

    assert peer.heard(word(account(served=1e9)), 1.1 + FORGIVEN_S) == []
    assert peer.heard(word(account(served=1e9 + 5.0)), 20.0) == [change(given=5.0)]


def test_a_peer_that_was_started_again_counts_from_zero() -> None:
    peer = known(account(served=100.0))
    peer.lost(1.0)

    restarted = peer.heard(word(account(served=30.0), instance_id="second"), 3.0)

    assert restarted == [change(given=30.0)]


def test_a_peer_has_so_many_accounts_at_most() -> None:
    peer = known(*(account(f"t{at}", 1.0) for at in range(AT_MOST)))

    changes = peer.heard(word(account("one more", 1.0), account("t0", 2.0)), 1.0)

    assert changes == [change("t0", 1.0)]


def test_a_peer_is_told_everything_at_first_and_then_what_changed() -> None:
    turns = Turns()
    turns.charge("acme", 5.0, weight=1)
    turns.enter("globex")
    telling = Telling(lambda: iter([((SMALL, Band.INTERACTIVE), turns)]))

    assert telling.accounts() == [account("globex", waits=True), account("acme", 5.0)]
    assert telling.accounts() == []
    turns.charge("acme", 2.0, weight=1)
    assert telling.accounts() == [account("acme", 7.0)]


def test_what_was_given_elsewhere_is_not_told_on() -> None:
    turns = Turns()
    turns.enter_elsewhere("acme")
    turns.charge_elsewhere("acme", 5.0, weight=1)

    assert Telling(lambda: iter([((SMALL, Band.BATCH), turns)])).accounts() == []


def test_so_many_accounts_are_told_at_most() -> None:
    turns = Turns()
    for at in range(AT_MOST + 10):
        turns.charge(f"t{at}", 1.0, weight=1)

    told = Telling(lambda: iter([((SMALL, Band.BATCH), turns)])).accounts()

    assert len(told) == AT_MOST
    assert told[0].tenant == f"t{AT_MOST + 9}", "those that changed last"
