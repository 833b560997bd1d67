"""What one tenant has asked is in no cache that another can look into, by the engine's counters."""

import pytest

from evenflow.cli.salts import rotate
from tests.integration.walls.walled_mesh import LONG, ask, asking, batch, salt_of
from tests.integration.whole.mesh import Mesh
from tests.integration.whole.programs import until


def test_the_cache_is_alive_within_a_tenant_and_empty_across(mesh: Mesh) -> None:
    prompt = f"Asked twice. {LONG}"
    first = ask(mesh, asking(prompt))
    again = ask(mesh, asking(prompt))

    others = ask(mesh, asking(prompt), tenant="globex")

    assert first.usage.cached_prompt_tokens == 0
    assert again.usage.cached_prompt_tokens > 0.9 * first.usage.prompt_tokens
    assert others.usage.cached_prompt_tokens == 0
    candidates = mesh.explain(others.started.request_id).candidates
    assert {each.expected_cached_tokens for each in candidates} == {0}


@pytest.mark.parametrize("guess", ["of acme", "", "0" * 64])
def test_a_salt_in_a_header_opens_no_partition_guessed_or_known(mesh: Mesh, guess: str) -> None:
    """Not even the right one, which only who holds the mesh's secret can make."""
    prompt = f"Salted {guess}. {LONG}"
    salt = salt_of(mesh, "acme") if guess == "of acme" else guess
    ask(mesh, asking(prompt))

    claims = (("x-evenflow-cache-salt", salt), ("x-evenflow-cache-key", salt))
    others = ask(mesh, asking(prompt), tenant="globex", metadata=claims)

    assert others.usage.cached_prompt_tokens == 0


def test_an_answer_is_kept_for_its_tenant_alone(mesh: Mesh) -> None:
    prompt = "An answer to be kept."
    ask(mesh, batch(prompt))
    until(lambda: ask(mesh, batch(prompt)).started.cached)

    others = ask(mesh, batch(prompt), tenant="globex")

    assert not others.started.cached


def test_a_new_epoch_of_the_salts_empties_the_caches(mesh: Mesh) -> None:
    prompt = f"Before the rotation. {LONG}"
    ask(mesh, asking(prompt))
    assert ask(mesh, asking(prompt)).usage.cached_prompt_tokens > 0
    kept = "An answer of the epoch before."
    ask(mesh, batch(kept))
    until(lambda: ask(mesh, batch(kept)).started.cached)

    rotate(mesh.home)

    until(lambda: not ask(mesh, batch(kept)).started.cached, within_s=10.0)
    assert ask(mesh, asking(prompt)).usage.cached_prompt_tokens == 0
