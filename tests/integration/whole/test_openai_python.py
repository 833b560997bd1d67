"""The official OpenAI client for Python against the front end, on a real model."""

from collections.abc import Iterator

import openai
import pytest

from tests.integration.whole.mesh import Mesh

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture
def client(real_mesh: Mesh) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{real_mesh.frontend}/v1", api_key=real_mesh.api_key("acme"), max_retries=0
    ) as made:
        yield made


def test_answers_in_one_piece_with_usage(client: openai.OpenAI, real_mesh: Mesh) -> None:
    answer = client.chat.completions.create(
        model=real_mesh.model, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )

    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streams_the_same_answer(client: openai.OpenAI, real_mesh: Mesh) -> None:
    stream = client.chat.completions.create(
        model=real_mesh.model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_answer_that_broke_can_be_carried_on_by_its_text(
    client: openai.OpenAI, real_mesh: Mesh
) -> None:
    question: openai.types.chat.ChatCompletionUserMessageParam = {
        "role": "user",
        "content": QUESTION,
    }
    came = "The capital of France"
    whole = client.chat.completions.create(
        model=real_mesh.model, messages=[question], temperature=0
    )
    rest = client.chat.completions.create(
        model=real_mesh.model,
        messages=[question, {"role": "assistant", "content": came}],
        temperature=0,
    )

    assert came + (rest.choices[0].message.content or "") == whole.choices[0].message.content


def test_content_may_be_parts(client: openai.OpenAI, real_mesh: Mesh) -> None:
    parts: list[openai.types.chat.ChatCompletionContentPartTextParam] = [
        {"type": "text", "text": "What is the capital of France?"},
        {"type": "text", "text": " Answer in one sentence."},
    ]
    answer = client.chat.completions.create(
        model=real_mesh.model, messages=[{"role": "user", "content": parts}], temperature=0
    )

    assert "Paris" in (answer.choices[0].message.content or "")


def test_lists_the_models(client: openai.OpenAI, real_mesh: Mesh) -> None:
    assert [model.id for model in client.models.list()] == [real_mesh.model]
    assert client.models.retrieve(real_mesh.model).id == real_mesh.model


def test_logprobs_and_stop_strings(client: openai.OpenAI, real_mesh: Mesh) -> None:
    answer = client.chat.completions.create(
        model=real_mesh.model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        stop=["Paris", "\n\n\n"],
    )

    assert "Paris" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].logprobs is not None
    first = (answer.choices[0].logprobs.content or [])[0]
    assert first.logprob <= 0
    assert len(first.top_logprobs) == 2


def test_a_bad_request_names_the_field(client: openai.OpenAI, real_mesh: Mesh) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=real_mesh.model, messages=[{"role": "user", "content": "hi"}], temperature=9
        )

    assert caught.value.param == "temperature"
    assert caught.value.code == "FIELD_INVALID"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, real_mesh: Mesh, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=real_mesh.model,
            messages=[{"role": "user", "content": "hi"}],
            n=2,
            stream=stream,
        )

    assert caught.value.param == "n"


def test_a_wrong_key_is_a_401(real_mesh: Mesh) -> None:
    with (
        openai.OpenAI(
            base_url=f"{real_mesh.frontend}/v1", api_key="evf_wrong", max_retries=0
        ) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.models.list()

    assert caught.value.code == "UNKNOWN_IDENTITY"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_a_404(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            model="gpt-none", messages=[{"role": "user", "content": "hi"}], stream=stream
        )

    assert caught.value.code == "MODEL_NOT_FOUND"
    assert caught.value.param == "model"


def test_a_prompt_that_does_not_fit_says_so(client: openai.OpenAI, real_mesh: Mesh) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=real_mesh.model, messages=[{"role": "user", "content": "word " * 20_000}]
        )

    assert caught.value.code == "CONTEXT_TOO_LONG"
    assert caught.value.param == "messages"
