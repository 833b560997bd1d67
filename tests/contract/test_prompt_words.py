"""What routers and runtimes hear of the registry of prompts, from a policy service that runs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from evenflow.policy.v1 import prompt_service_pb2 as pb
from services.policy.core.registry import Changes, RegistryUnreachable
from services.policy.inbound.prompt_news import PromptNews
from services.router.core.prompts import Named, PromptNotFound, Prompts, Registered
from services.router.outbound.prompts import GrpcPromptSource, PromptFollower
from services.runtime.core.prompts import Template
from services.runtime.outbound.templates import TemplateFollower
from tests.identities import Identities
from tests.unit.policy.registries import Registry, content, create, label, registry

PATIENCE_S = 20.0
ROME = {"city": "Rome"}


@dataclass
class Mesh:
    """A router and a runtime, each with its stream."""

    prompts: Prompts = field(default_factory=Prompts)
    templates: dict[tuple[str, str], Template] = field(default_factory=dict)

    def tell(self, tenant: str, tag: str, template: Template) -> None:
        self.templates[tenant, tag] = template

    @asynccontextmanager
    async def following(self, policy: Registry) -> AsyncIterator[None]:
        source = GrpcPromptSource(policy.where, policy.tls("router"))
        runtime = TemplateFollower(policy.where, policy.tls("runtime"), self.tell)
        async with asyncio.TaskGroup() as tasks:
            following = [
                tasks.create_task(_until_lost(PromptFollower(self.prompts).follow(source))),
                tasks.create_task(_until_lost(runtime.follow())),
            ]
            yield
            for each in following:
                each.cancel()

    def version(self, key: str = "r1", **named: Any) -> int | None:
        """None: not found."""
        try:
            asked = Named(**{"name": "trip", "variables": ROME, **named})
            return self.prompts.choose("acme", key, asked).version.number
        except PromptNotFound:
            return None


async def _until_lost(stream: Any) -> None:
    try:
        await stream
    except (grpc.aio.AioRpcError, OSError):
        return


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the follower writes it down, and knows nobody
            await asyncio.sleep(0.002)


@asynccontextmanager
async def followed(folder: Path) -> AsyncIterator[tuple[Mesh, Any]]:
    mesh = Mesh()
    async with AsyncExitStack() as stack:
        policy = await stack.enter_async_context(registry(folder))
        operator = await stack.enter_async_context(policy.called_by("operator"))
        await operator.CreatePromptVersion(create("One: {{city}}", content=_pinned()), timeout=5)
        await operator.SetLabel(label((1, 100)), timeout=5)
        await stack.enter_async_context(mesh.following(policy))
        await until(lambda: mesh.prompts.registered is not None and bool(mesh.templates))
        yield mesh, operator


def _pinned() -> pb.PromptContent:
    defaults = pb.PromptDefaults(max_output_tokens=9, temperature=0.0, top_p=0.5, stop=["x"])
    return content("One: {{city}}", model="small", defaults=defaults)


def test_both_hear_what_a_version_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with followed(tmp_path) as (mesh, _):
            chosen = mesh.prompts.choose("acme", "r1", Named("trip", variables=ROME))
            version = chosen.version
            template = mesh.templates["acme", "trip@1"]

            assert (version.model, version.output_tokens, version.temperature) == ("small", 9, 0.0)
            assert (version.text_bytes, version.fixed_bytes, chosen.filled_bytes) == (5, 5, 9)
            assert [each.content for each in template.filled({"city": "Rome"})] == ["One: Rome"]
            assert (template.model, template.max_output_tokens) == ("small", 9)
            assert template.sampling == {"temperature": 0.0, "top_p": 0.5, "stop": ("x",)}

    asyncio.run(scenario())


def test_a_move_and_a_roll_back_reach_the_router(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with followed(tmp_path) as (mesh, operator):
            await operator.CreatePromptVersion(create(), timeout=5)
            await operator.SetLabel(label((2, 100)), timeout=5)
            await until(lambda: mesh.version() == 2)
            back = pb.RollBackLabelRequest(tenant="acme", name="trip", label="production")
            await operator.RollBackLabel(back, timeout=5)
            await until(lambda: mesh.version() == 1)

    asyncio.run(scenario())


def test_under_moves_every_request_has_a_version_that_can_be_filled_in(tmp_path: Path) -> None:
    """Each is one of the two, whole, however the label moves meanwhile."""

    async def scenario() -> None:
        async with followed(tmp_path) as (mesh, operator):
            await operator.CreatePromptVersion(create("Two: {{city}}"), timeout=5)
            await until(lambda: ("acme", "trip@2") in mesh.templates)
            seen: set[str] = set()

            def ask(at: int) -> None:
                chosen = mesh.prompts.choose("acme", f"r{at}", Named("trip", variables=ROME))
                (message,) = mesh.templates["acme", chosen.tag].filled({"city": "Rome"})
                assert message.content == {1: "One: Rome", 2: "Two: Rome"}[chosen.version.number]
                seen.add(chosen.tag)

            for at in range(30):
                await operator.SetLabel(label(*([(1, 50), (2, 50)], [(2, 100)])[at % 2]), timeout=5)
                for asked in range(20):
                    ask(at * 20 + asked)
            assert seen == {"trip@1", "trip@2"}

    asyncio.run(scenario())


def test_without_policy_both_keep_what_they_were_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh, identities = Mesh(), Identities(tmp_path)
        async with registry(tmp_path, identities=identities) as policy, mesh.following(policy):
            async with policy.called_by("operator") as operator:
                await operator.CreatePromptVersion(create(), timeout=5)
                await operator.SetLabel(label((1, 100)), timeout=5)
            await until(lambda: mesh.prompts.registered is not None and mesh.version() == 1)
            await until(lambda: bool(mesh.templates))

        assert mesh.version() == 1
        assert ("acme", "trip@1") in mesh.templates

        async with (
            registry(tmp_path, identities=identities) as again,
            again.called_by("operator") as operator,
        ):
            await operator.CreatePromptVersion(create("Two: {{city}}"), timeout=5)
            await operator.SetLabel(label((2, 100)), timeout=5)
            async with mesh.following(again):
                await until(lambda: mesh.version() == 2)

    asyncio.run(scenario())


@pytest.mark.parametrize("tenant", ["globex", "", "acme/trip"])
def test_another_tenants_prompt_is_not_found(tmp_path: Path, tenant: str) -> None:
    async def scenario() -> None:
        async with followed(tmp_path) as (mesh, _):
            with pytest.raises(PromptNotFound):
                mesh.prompts.choose(tenant, "r1", Named("trip", variables=ROME))
            assert not [key for key in mesh.templates if key[0] != "acme"]

    asyncio.run(scenario())


class Told:
    """A PromptSource that says what a test tells it to, word by word."""

    def __init__(self, *words: pb.WatchPromptsResponse) -> None:
        self._words = words
        self.after: list[object] = []  # what the router knew after each

    async def words(self) -> AsyncGenerator[pb.WatchPromptsResponse, None]:
        for each in self._words:
            yield each
            self.after.append(self.prompts.registered)

    prompts: Prompts


def test_a_new_stream_counts_once_all_of_it_is_told() -> None:
    version = pb.ReleasedVersion(version=1)
    half = pb.PromptNews(tenant="acme", name="trip", version=version)
    told = Told(pb.WatchPromptsResponse(news=[half]), pb.WatchPromptsResponse(complete=True))
    told.prompts = prompts = Prompts()
    before = prompts.registered = Registered()

    asyncio.run(PromptFollower(prompts).follow(told))

    assert told.after[0] is before
    assert told.after[1] is prompts.registered is not before


class Unreachable:
    """A Registry whose database does not answer yet."""

    async def changes(self, after: int) -> Changes:
        raise RegistryUnreachable(f"nothing is known after {after}")


def test_a_policy_that_can_t_read_its_registry_does_not_say_it_is_empty() -> None:
    async def scenario() -> bool:
        news = PromptNews(cast(Any, Unreachable()), heartbeat_s=0.001)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(news.follow())
            async with aclosing(cast(Any, news.watch(templates=False))) as words:
                said = [(await anext(words)).complete for _ in range(5)]
            following.cancel()
        return any(said)

    assert not asyncio.run(scenario())
