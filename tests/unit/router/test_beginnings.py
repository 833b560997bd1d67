"""The bytes by which prompts with one beginning are known, over every API."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import chat_service_pb2 as openai_pb
from services.router.core.prefixes import START_BYTES
from services.router.inbound import beginnings

NAMES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
said = st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.text(max_size=20)), max_size=5)
Said = list[tuple[str, str]]


def over_grpc(messages: Said) -> bytes:
    chat = pb.ChatInput()
    for role, content in messages:
        chat.messages.add(role=NAMES[role], content=content)
    return beginnings.chat(chat.messages)


def over_openai(messages: Said, *, in_parts: bool = False) -> bytes:
    chat = openai_pb.ChatCompletion()
    for role, content in messages:
        value = chat.messages.add(role=role).content
        if not in_parts:
            value.string_value = content
            continue
        for piece in (content[:3], content[3:]):
            part = value.list_value.values.add().struct_value.fields
            part["type"].string_value, part["text"].string_value = "text", piece
    return beginnings.completion(chat.messages)


@settings(deadline=None)  # a busy machine is no fault
@given(said)
def test_a_conversation_is_the_same_over_both_apis(messages: Said) -> None:
    assert over_grpc(messages) == over_openai(messages) == over_openai(messages, in_parts=True)


@settings(deadline=None)  # a busy machine is no fault
@given(said, said)
def test_the_next_turn_begins_with_the_one_before(before: Said, more: Said) -> None:
    assert over_grpc(before + more).startswith(over_grpc(before))


def test_who_speaks_matters() -> None:
    assert over_grpc([("user", "a")]) != over_grpc([("assistant", "a")])
    assert over_grpc([("user", "a"), ("user", "b")]) != over_grpc([("user", "ab")])


def test_kinds_of_prompts_have_nothing_in_common() -> None:
    starts = {
        beginnings.text("a" * 8)[:1],
        beginnings.tokens([97] * 8)[:1],
        over_grpc([("user", "a")])[:1],
    }

    assert len(starts) == 3


def test_tokens_begin_alike_where_their_ids_do() -> None:
    ids = [random.Random(1).randrange(2**31) for _ in range(100)]  # noqa: S311 - a test

    assert beginnings.tokens([*ids, 1]).startswith(beginnings.tokens(ids))
    assert not beginnings.tokens([*ids[:-1], 0]).startswith(beginnings.tokens(ids))


def test_no_more_is_read_than_the_index_keeps() -> None:
    endless = "x" * (1 << 20)

    for start in (
        beginnings.text(endless),
        beginnings.tokens([1] * (1 << 20)),
        over_grpc([("user", endless)] * 3),
        over_openai([("user", endless)] * 3),
        over_grpc([("user", "")] * 100_000),
    ):
        assert len(start) <= START_BYTES + 1


def test_odd_contents_are_nothing_and_no_fault() -> None:
    chat = openai_pb.ChatCompletion()
    chat.messages.add(role="tool")
    chat.messages.add(role="user").content.number_value = 1.0
    chat.messages.add(role="user").content.list_value.values.add().string_value = "no part"
    chat.messages.add(role="user").content.list_value.values.add().struct_value.fields[
        "text"
    ].number_value = 1

    assert b"no part" not in beginnings.completion(chat.messages)
