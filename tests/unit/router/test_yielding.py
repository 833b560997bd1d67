from services.router.core.yielding import PATIENCE_S, Patience, lead


def test_room_is_left_for_as_long_as_others_need_to_take_it() -> None:
    patience = Patience()

    assert patience.lasts(1.0)
    assert patience.lasts(0.9 + PATIENCE_S)
    assert not patience.lasts(1.1 + PATIENCE_S)
    assert not patience.lasts(2.0), "nobody took it, so it is used"


def test_it_is_left_again_once_others_were_served() -> None:
    patience = Patience()
    patience.lasts(1.0)
    patience.lasts(9.0)

    patience.taken()

    assert patience.lasts(9.0)


def test_it_begins_anew_when_nobody_else_had_the_turn_meanwhile() -> None:
    patience = Patience()
    patience.lasts(1.0)
    patience.rest()

    assert patience.lasts(9.0)


def test_the_lead_grows_with_what_is_given_before_others_hear_of_it() -> None:
    assert lead(100.0, 0.0) == 100.0
    assert lead(100.0, 4000.0) > 1000.0
