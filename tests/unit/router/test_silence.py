from services.router.core.silence import LOOK_EVERY_S, Silence


def first_too_long_s(silence: Silence, *, begin_s: float = 0.0) -> float:
    looks = 0
    while not silence.too_long(begin_s + looks * LOOK_EVERY_S):
        looks += 1
    return looks * LOOK_EVERY_S


def test_a_silent_peer_is_found_one_look_after_the_limit() -> None:
    silence = Silence(limit_s=0.5, now_s=0.0)

    assert 0.5 < first_too_long_s(silence) <= 0.5 + 2 * LOOK_EVERY_S


def test_each_word_begins_anew_with_its_own_limit() -> None:
    silence = Silence(limit_s=5.0, now_s=0.0)
    assert not silence.too_long(LOOK_EVERY_S)
    silence.heard(limit_s=0.2)

    assert first_too_long_s(silence, begin_s=LOOK_EVERY_S) <= 0.2 + 2 * LOOK_EVERY_S


def test_our_own_standstill_is_not_the_peers() -> None:
    silence = Silence(limit_s=0.5, now_s=0.0)

    assert not silence.too_long(60.0)
    silence.heard(limit_s=0.5)
    assert not silence.too_long(60.0 + LOOK_EVERY_S)
