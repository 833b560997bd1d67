"""The response cache behind a real Envoy: who gets an earlier answer again, and who does not."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.cache.cached_mesh import (
    ALLOWED_TTL_S,
    OUTPUT_TOKENS,
    CachedMesh,
    asking,
    keeping_mesh,
)
from tests.integration.whole.programs import until


@pytest.fixture(scope="module")
def cached() -> Iterator[CachedMesh]:
    with keeping_mesh() as mesh:
        yield mesh


def test_the_same_request_is_answered_again_without_an_engine(cached: CachedMesh) -> None:
    first = cached.asked("the same again")
    written = cached.engine_tokens()

    second = cached.ask("the same again")

    assert second.is_hit
    assert second.text == first.text != ""
    assert second.finished == first.finished
    assert second.finished.usage.output_tokens == OUTPUT_TOKENS
    assert second.started.request_id != first.started.request_id
    assert second.started.model_version == first.started.model_version
    assert second.trailers["x-evenflow-output-tokens"] == str(OUTPUT_TOKENS)
    assert cached.engine_tokens() == written
    assert cached.in_flight() == (0, 0)


def test_an_operator_sees_what_the_cache_did(cached: CachedMesh) -> None:
    before = cached.outcomes()
    missed = cached.explained(cached.asked("seen by an operator"))
    hit = cached.explained(cached.ask("seen by an operator"))

    assert (missed.cache, hit.cache) == ("miss", "hit")
    assert not hit.candidates
    assert not hit.outcome.endpoint
    assert hit.outcome.grpc_code == 0
    assert hit.outcome.attempts == 0
    assert hit.outcome.output_tokens == OUTPUT_TOKENS
    until(
        lambda: (
            cached.outcomes() == {**before, "hit": before["hit"] + 1, "miss": before["miss"] + 1}
        )
    )
    assert cached.held_bytes() > 0


def test_another_tenant_gets_its_own(cached: CachedMesh) -> None:
    first = cached.asked("whose is it?")

    other = cached.asked("whose is it?", tenant="globex")

    assert other.text == first.text, "the simulation writes the same to both"


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": pb.Sampling(max_output_tokens=8)},
        {"sampling": pb.Sampling(max_output_tokens=8, seed=7)},
        {"sampling": pb.Sampling(max_output_tokens=8, temperature=0.1)},
        {"response_cache": pb.RESPONSE_CACHE_BYPASS},
        {"workload_class": 3, "response_cache": pb.RESPONSE_CACHE_ALLOW},
        {"workload_class": 1},
    ],
    ids=["no temperature", "seed", "warm", "bypass", "high-risk", "class not opted in"],
)
def test_what_is_not_to_be_kept_is_not(cached: CachedMesh, fields: dict[str, Any]) -> None:
    held = cached.entries()
    prompt = f"not kept {sorted(fields)}"

    answers = [cached.ask(prompt, **fields) for _ in range(3)]

    assert not any(each.is_hit for each in answers)
    assert cached.entries() == held


def test_a_caller_may_allow_it_and_then_it_grows_old(cached: CachedMesh) -> None:
    allowed: dict[str, Any] = {"workload_class": 1, "response_cache": pb.RESPONSE_CACHE_ALLOW}
    held = cached.entries()
    cached.asked("growing old", **allowed)

    assert cached.ask("growing old", **allowed).is_hit
    until(lambda: cached.entries() == held, within_s=ALLOWED_TTL_S + 10)
    cached.asked("growing old", **allowed)
    until(lambda: cached.entries() == held, within_s=ALLOWED_TTL_S + 10)


def test_a_caller_who_bypasses_gets_a_new_answer(cached: CachedMesh) -> None:
    cached.asked("kept already")

    assert not cached.ask("kept already", response_cache=pb.RESPONSE_CACHE_BYPASS).is_hit
    assert cached.ask("kept already").is_hit


@pytest.mark.parametrize("name", ["x-evenflow-cached", "x-evenflow-cache-key"])
def test_nobody_can_claim_a_hit(cached: CachedMesh, name: str) -> None:
    held = cached.entries()
    claimed = ((name, "hit"), ("x-evenflow-request-id", "r-1"))

    told = cached.ask(f"claimed by {name}", metadata=claimed, workload_class=1)

    assert not told.is_hit
    assert told.started.endpoint in cached.mesh.runtimes
    assert cached.entries() == held


def test_openais_stream_is_given_again_under_a_new_id(cached: CachedMesh) -> None:
    first, marked = _streamed(cached, usage=True)
    assert marked is None
    until(lambda: _streamed(cached, usage=True)[1] == "hit")

    again, _ = _streamed(cached, usage=True)

    assert _text(again) == _text(first) != ""
    assert again[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in again if c.choices][-1] == "length"
    assert again[-1].usage == first[-1].usage
    assert len({chunk.id for chunk in again}) == 1
    assert again[0].id.startswith("chatcmpl-")
    assert again[0].id != first[0].id
    assert again[0].created >= first[0].created > 0
    assert _streamed(cached, usage=False)[1] is None, "another question: without usage"
    until(lambda: _streamed(cached, usage=False)[1] == "hit")


def test_openais_answer_in_one_piece_is_given_again(cached: CachedMesh) -> None:
    first, marked = _completed(cached)
    assert marked is None
    until(lambda: _completed(cached)[1] == "hit")

    again, _ = _completed(cached)

    assert again.choices == first.choices
    assert again.usage == first.usage
    assert again.model == first.model
    assert again.system_fingerprint == first.system_fingerprint
    assert again.id != first.id
    assert again.id.startswith("chatcmpl-")
    assert again.created >= first.created > 0


def test_openais_callers_may_bypass_and_not_make_words_up(cached: CachedMesh) -> None:
    until(lambda: _completed(cached)[1] == "hit")

    assert _completed(cached, response_cache="bypass")[1] is None
    with cached.openai() as client, pytest.raises(Exception, match="response_cache"):
        client.chat.completions.create(**_question(response_cache="perhaps"))


def test_a_cancelled_answer_is_not_kept(cached: CachedMesh) -> None:
    held = cached.entries()
    long = pb.Sampling(temperature=0, max_output_tokens=2000, ignore_eos=True)
    with cached.channel("acme") as calls:
        stream = cached.stub(calls).Generate(asking("cancelled", sampling=long), timeout=30)
        next(stream)
        stream.cancel()
        with pytest.raises(grpc.RpcError):
            list(stream)
    until(lambda: cached.in_flight() == (0, 0))

    short = cached.asked("after the cancelled one")

    assert not short.is_hit
    assert cached.entries() == held + 1


def test_what_may_not_be_asked_is_refused_whatever_is_kept(cached: CachedMesh) -> None:
    cached.asked("forbidden soon")

    def without_batch(policy: str) -> str:
        return policy.replace(
            "workload_classes: [interactive, batch, high_risk]",
            "workload_classes: [interactive, high_risk]",
            1,
        )

    cached.rewrite_policy(without_batch)
    try:
        with pytest.raises(grpc.RpcError) as refused:
            cached.ask("forbidden soon")
    finally:
        cached.rewrite_policy(
            lambda policy: policy.replace(
                "[interactive, high_risk]", "[interactive, batch, high_risk]", 1
            )
        )
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert cached.ask("forbidden soon").is_hit


def _question(**extra: Any) -> dict[str, Any]:
    body = {"workload_class": "batch", "ignore_eos": True, **extra}
    return {
        "model": "simulated",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "temperature": 0,
        "max_tokens": OUTPUT_TOKENS,
        "extra_body": body,
    }


def _streamed(cached: CachedMesh, *, usage: bool) -> tuple[list[Any], str | None]:
    """Its chunks, and what the answer's headers say of the cache."""
    with cached.openai() as client:
        raw = client.chat.completions.with_raw_response.create(
            **_question(), stream=True, stream_options={"include_usage": usage}
        )
        return list(raw.parse()), raw.headers.get("x-evenflow-cache")


def _completed(cached: CachedMesh, **extra: Any) -> tuple[Any, str | None]:
    with cached.openai() as client:
        raw = client.chat.completions.with_raw_response.create(**_question(**extra))
        return raw.parse(), raw.headers.get("x-evenflow-cache")


def _text(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
