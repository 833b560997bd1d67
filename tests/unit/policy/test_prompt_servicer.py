"""The registry of prompts as operators, routers and runtimes call it, over real mTLS."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from evenflow.policy.v1 import prompt_service_pb2 as pb
from tests.fakes.runtime_mesh import Refusal, refusal
from tests.unit.policy.registries import Registry, content, create, label, registry

T = TypeVar("T")
OPERATOR = "spiffe://evenflow.local/service/operator"


def served(folder: Path, body: Callable[[Registry, Any], Awaitable[T]]) -> T:
    async def scenario() -> T:
        async with registry(folder) as policy, policy.called_by("operator") as operator:
            return await body(policy, operator)

    return asyncio.run(scenario())


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def all_news(call: Any) -> list[pb.PromptNews]:
    news = []
    async for response in call:
        news += response.news
        if response.complete:
            break
    return news


def test_a_version_is_shown_as_it_was_created(tmp_path: Path) -> None:
    async def body(_: Registry, operator: Any) -> None:
        made = await operator.CreatePromptVersion(create(), timeout=5)
        assert (made.version, made.created) == (1, True)

        shown = await operator.GetPromptVersion(
            pb.GetPromptVersionRequest(tenant="acme", name="trip"), timeout=5
        )

        assert (shown.version, shown.content.messages) == (1, content().messages)
        assert (shown.created_by, shown.created_at.seconds) == (OPERATOR, 1_700_000_000)

    served(tmp_path, body)


def test_the_same_version_with_other_content_is_refused(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> Refusal:
        await operator.CreatePromptVersion(create(version=1), timeout=5)
        again = await operator.CreatePromptVersion(create(version=1), timeout=5)
        assert (again.version, again.created) == (1, False)
        said = await refused(operator.CreatePromptVersion(create("Else", version=1), timeout=5))
        assert policy.audit.deeds[-1].outcome == "PROMPT_VERSION_EXISTS"
        return said

    said = served(tmp_path, body)

    assert (said.code, said.reason) == (grpc.StatusCode.ALREADY_EXISTS, "PROMPT_VERSION_EXISTS")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (create(tenant="No"), "tenant"),
        (create(name=""), "name"),
        (create("{{town}}"), "content.messages"),
        (create("{{"), "content.messages[0].content"),
        (create(content=pb.PromptContent()), "content.messages"),
        (
            create(content=pb.PromptContent(messages=[pb.TemplateMessage()])),
            "content.messages[0].role",
        ),
        (create(version=9), "version"),
    ],
    ids=["tenant", "name", "undeclared", "braces", "empty", "role", "version"],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, request_: pb.CreatePromptVersionRequest, field: str
) -> None:
    async def body(_: Registry, operator: Any) -> Refusal:
        return await refused(operator.CreatePromptVersion(request_, timeout=5))

    said = served(tmp_path, body)

    assert (said.reason, said.field) == ("FIELD_INVALID", field)


def test_a_label_moves_rolls_back_and_remembers(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        for text in ("one", "two"):
            await operator.CreatePromptVersion(create(text), timeout=5)
        await operator.SetLabel(label((1, 100)), timeout=5)
        assert (await operator.SetLabel(label((1, 90), (2, 10)), timeout=5)).move == 2

        back = pb.RollBackLabelRequest(tenant="acme", name="trip", label="production")
        said = await operator.RollBackLabel(back, timeout=5)

        assert [(each.version, each.percent) for each in said.shares] == [(1, 100)]
        nothing = await refused(operator.RollBackLabel(back, timeout=5))
        assert (nothing.code, nothing.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "NOTHING_BEFORE",
        )
        one = pb.ListPromptsRequest(tenant="acme", name="trip")
        (summary,) = (await operator.ListPrompts(one, timeout=5)).prompts
        assert (summary.versions, summary.labels[0].label) == (2, "production")
        moves = summary.labels[0].moves
        assert [(each.number, each.rolled_back) for each in moves] == [
            (3, True),
            (2, False),
            (1, False),
        ]
        told = [(each.action, each.outcome) for each in policy.audit.deeds[-2:]]
        assert told == [
            ("prompt.label_rolled_back", "begun"),
            ("prompt.label_rolled_back", "NOTHING_BEFORE"),
        ]

    served(tmp_path, body)


def test_every_change_is_audited_and_no_text_is(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        await operator.CreatePromptVersion(create("a secret recipe"), timeout=5)
        await operator.SetLabel(label((1, 100)), timeout=5)

        deeds = policy.audit.deeds
        assert [(each.action, each.outcome) for each in deeds] == [
            ("prompt.version_created", "begun"),
            ("prompt.version_created", "done"),
            ("prompt.label_moved", "begun"),
            ("prompt.label_moved", "done"),
        ]
        assert {(each.actor, each.tenant, each.subject) for each in deeds} == {
            (OPERATOR, "acme", "acme/trip")
        }
        assert deeds[-1].facts == {"label": "production", "shares": "1:100"}
        assert "secret" not in str(deeds)

    served(tmp_path, body)


def test_nothing_changes_that_can_t_be_audited(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        policy.audit.away = True

        said = await refused(operator.CreatePromptVersion(create(), timeout=5))

        assert said.reason == "AUDIT_UNAVAILABLE"
        everything = pb.ListPromptsRequest(tenant="acme")
        assert not (await operator.ListPrompts(everything, timeout=5)).prompts

    served(tmp_path, body)


def test_routers_hear_of_all_and_of_each_change(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        await operator.CreatePromptVersion(create(), timeout=5)
        await operator.SetLabel(label((1, 100)), timeout=5)
        async with policy.called_by("router") as router:
            call = router.WatchPrompts(pb.WatchPromptsRequest(), timeout=10)
            first, pointed = await all_news(call)
            assert (first.tenant, first.name, first.version.version) == ("acme", "trip", 1)
            assert not first.version.messages, "routers need no templates"
            assert (first.version.text_bytes, first.version.fixed_bytes) == (10, 9)
            assert first.version.variables[0].uses == 1
            assert pointed.label.shares[0].percent == 100

            await operator.CreatePromptVersion(create("two"), timeout=5)
            async for response in call:
                if response.news:
                    break
            assert [each.version.version for each in response.news] == [2]

    served(tmp_path, body)


def test_runtimes_get_templates_taken_apart(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        await operator.CreatePromptVersion(create(r"\{{ {{city}}!"), timeout=5)
        async with policy.called_by("runtime") as runtime:
            call = runtime.WatchPrompts(pb.WatchPromptsRequest(templates=True), timeout=10)
            (news,) = await all_news(call)

        parts = news.version.messages[0].parts
        assert [(each.text, each.variable) for each in parts] == [
            ("{{ ", ""),
            ("", "city"),
            ("!", ""),
        ]

    served(tmp_path, body)


def test_a_large_registry_comes_in_messages_that_grpc_takes(tmp_path: Path) -> None:
    async def body(policy: Registry, operator: Any) -> None:
        for _ in range(12):
            await operator.CreatePromptVersion(create("x" * 199_000), timeout=5)
        async with policy.called_by("runtime") as runtime:
            sizes, versions = [], 0
            async for each in runtime.WatchPrompts(
                pb.WatchPromptsRequest(templates=True), timeout=10
            ):
                sizes.append(each.ByteSize())
                versions += len(each.news)
                if versions == 12:
                    break
        assert max(sizes) <= 1 << 20
        assert len(sizes) >= 3

    served(tmp_path, body)


def test_silence_is_broken(tmp_path: Path) -> None:
    async def body(policy: Registry, _: Any) -> None:
        async with policy.called_by("router") as router:
            call = router.WatchPrompts(pb.WatchPromptsRequest(), timeout=10)
            said = [await call.read() for _ in range(4)]
            assert said[-1] == pb.WatchPromptsResponse(complete=True)

    served(tmp_path, body)


@pytest.mark.parametrize("caller", ["router", "runtime", "gateway"])
def test_only_operators_change_prompts(tmp_path: Path, caller: str) -> None:
    async def body(policy: Registry, _: Any) -> None:
        async with policy.called_by(caller) as stub:
            for call in (
                stub.CreatePromptVersion(create(), timeout=5),
                stub.SetLabel(label((1, 100)), timeout=5),
                stub.ListPrompts(pb.ListPromptsRequest(tenant="acme"), timeout=5),
                stub.RollBackLabel(pb.RollBackLabelRequest(), timeout=5),
                stub.GetPromptVersion(pb.GetPromptVersionRequest(), timeout=5),
            ):
                assert (await refused(call)).reason == "CALLER_NOT_ALLOWED"

    served(tmp_path, body)


def test_only_routers_and_runtimes_watch(tmp_path: Path) -> None:
    async def body(_: Registry, operator: Any) -> Refusal:
        return await refused(operator.WatchPrompts(pb.WatchPromptsRequest(), timeout=5).read())

    assert served(tmp_path, body).reason == "CALLER_NOT_ALLOWED"


def test_restarted_it_says_what_it_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with registry(tmp_path) as policy, policy.called_by("operator") as operator:
            await operator.CreatePromptVersion(create(), timeout=5)
            await operator.SetLabel(label((1, 100)), timeout=5)
            identities = policy.identities
        async with (
            registry(tmp_path, identities=identities) as again,
            again.called_by("router") as router,
        ):
            news = await all_news(router.WatchPrompts(pb.WatchPromptsRequest(), timeout=10))
        assert [each.WhichOneof("what") for each in news] == ["version", "label"]

    asyncio.run(scenario())
