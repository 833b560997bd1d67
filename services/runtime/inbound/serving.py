"""The stages of every generation, whatever API it came by: refuse, tokenize, limit, run, report.

A servicer decodes its request into a Demand, encodes the steps that come out, and does no more.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial

import grpc
from opentelemetry import trace

from services.chassis.deadline import Deadline
from services.runtime.core.demands import Chat, Demand, Prompt, Text, check_size
from services.runtime.core.engine import Engine, FinishReason, InvalidInput, Job, Step
from services.runtime.core.journal import Journal, NoJournal
from services.runtime.core.limits import output_tokens
from services.runtime.core.resuming import check_resumed
from services.runtime.core.sampling import InvalidSampling
from services.runtime.core.trimming import trimmed
from services.runtime.inbound.answers import Answers
from services.runtime.inbound.attempts import AttemptLog
from services.runtime.inbound.cuts import Cut, Cuts
from services.runtime.inbound.owners import Owner
from services.runtime.inbound.patience import Patience
from services.runtime.inbound.refusals import Draining, ModelNotFound, NotReady, OutsideBoundary
from services.runtime.inbound.reports import Report
from services.runtime.inbound.spending import Spending

_tracer = trace.get_tracer("evenflow.runtime")
_arms = itertools.count()

Waiting = Callable[[], AbstractAsyncContextManager[None]]


class Serving:
    """One engine, and whether it takes requests. `endpoint`: host:port to show to callers.
    `pool`: whose tenants alone it serves; empty: those of no pool. `journal`: where what budgets
    count is written down."""

    def __init__(
        self, engine: Engine, *, endpoint: str, pool: str = "", journal: Journal | None = None
    ) -> None:
        self.engine = engine
        self.endpoint = endpoint
        self.pool = pool
        self.ready = False
        self.draining = False
        self.patience = Patience()
        self.attempts = AttemptLog(engine)
        self.answers = Answers()
        self.cuts = Cuts()
        self._journal = journal or NoJournal()
        self.without_progress_s = 0.0  # of the engine, while it has work
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        return self._active

    async def wait_until_idle(self) -> None:
        await self._idle.wait()

    def owner(self, context: grpc.aio.ServicerContext) -> Owner:
        """Raises InvalidInput, or OutsideBoundary: Envoy was left to itself and came here."""
        owner = Owner.of(context)
        if owner.pool != self.pool:
            raise OutsideBoundary("this runtime serves tenants of another pool")
        return owner

    def report(self, owner: Owner) -> Report:
        return Report(self.engine, owner)

    async def encode(
        self, model: str, prompt: Prompt, context: grpc.aio.ServicerContext
    ) -> Sequence[int]:
        """For callers who want tokens only. Raises what a generation would."""
        self._check(model)
        async with self.patience.until(Deadline.of(context)):
            return await self._encoded(prompt)

    async def run(
        self, demand: Demand, report: Report, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Step, None]:
        """The engine's steps. Closing it frees the engine; trailers are set however it ends.

        Raises what refusals.ERRORS lists, and TimeoutError shortly before the deadline.
        """
        report.operation = _operation(demand.prompt)
        spending, cut = Spending(report), self._enter(report, context)
        try:
            self._check(report.owner.orders.model or demand.model)
            spending.enter(self._journal, self.engine, context)
            waiting = partial(self.patience.until, Deadline.of(context), cut)
            async with waiting():
                prompt = await self._prompt(demand.prompt, report)
            most = self._most(demand, report, prompt)
            if len(demand.resumed) == most:  # all was written, but nobody was told why it ended
                report.add(_ALL_WRITTEN)
                yield _ALL_WRITTEN
                return
            job = spending.begin(self._job(demand, report.owner, prompt, most))
            async with aclosing(self._steps(job, waiting, report, spending)) as steps:
                async for step in steps:
                    yield step
            spending.check()
        except (InvalidInput, InvalidSampling):
            spending.refused()
            raise
        finally:
            spending.end()
            self._leave(report, cut)
            report.end(context)

    async def _steps(
        self, job: Job, waiting: Waiting, report: Report, spending: Spending
    ) -> AsyncGenerator[Step, None]:
        span = _tracer.start_span("evenflow.engine.generate")
        try:
            async with aclosing(self.engine.generate(job)) as steps:
                while True:
                    async with waiting():
                        step = await anext(steps)
                    is_last = step.finish_reason is not None
                    if is_last:
                        step = spending.last(step)
                    if not report.has_begun:
                        span.add_event("gen_ai.first_token")
                    report.add(step)
                    if is_last:
                        spending.end()
                    yield step
                    if is_last:
                        return
        finally:
            span.end()

    def _job(self, demand: Demand, owner: Owner, prompt: Sequence[int], most: int) -> Job:
        return Job(
            # An arm of a hedge or a retry has the same id, and may come to the same engine.
            request_id=f"{owner.request_id}-{next(_arms)}",
            prompt=[*prompt, *demand.resumed] if demand.resumed else prompt,
            max_output_tokens=most - len(demand.resumed),
            sampling=demand.sampling,
            priority=owner.priority,
            cache_salt=owner.cache_salt,
            resumed=len(demand.resumed),
            resumable=is_resumable(demand, owner),
        )

    def _most(self, demand: Demand, report: Report, prompt: Sequence[int]) -> int:
        """Tokens that the whole answer may have."""
        report.asks(len(prompt), resumed_tokens=len(demand.resumed))
        orders, asked = report.owner.orders, demand.max_output_tokens
        allowed = output_tokens(
            orders.output(asked),
            prompt_tokens=len(prompt),
            max_context_tokens=self.engine.max_context_tokens,
            tenant=report.owner.limits,
        )
        most = orders.output(allowed) or allowed
        report.output_cut = most < (asked or allowed)
        if demand.resumed:
            if not report.owner.resumable:
                raise InvalidInput("resumed", "this request's class is not carried on")
            schema = demand.sampling.json_schema is not None
            check_resumed(demand.resumed, follows_schema=schema, max_output_tokens=most)
        return most

    def _check(self, model: str) -> None:
        if self.draining:
            raise Draining("this runtime takes no new requests")
        if model != self.engine.model:
            raise ModelNotFound(f"this runtime serves {self.engine.model}, got {model[:100]!a}")
        if not self.ready:
            raise NotReady("the model is still being read")

    async def _prompt(self, prompt: Prompt, report: Report) -> Sequence[int]:
        most_tokens = report.owner.orders.prompt_tokens
        if not most_tokens or not isinstance(prompt, Chat):
            return await self._encoded(prompt)
        check_size(prompt, self.engine.max_context_tokens)
        left = await trimmed(prompt.messages, self.engine.encode_chat, most_tokens=most_tokens)
        report.prompt_cut = left.left_out > 0
        return left.ids

    async def _encoded(self, prompt: Prompt) -> Sequence[int]:
        check_size(prompt, self.engine.max_context_tokens)
        if isinstance(prompt, Chat):
            return await self.engine.encode_chat(prompt.messages)
        if isinstance(prompt, Text):
            return await self.engine.encode_text(prompt.text)
        return prompt.ids

    def _enter(self, report: Report, context: grpc.aio.ServicerContext) -> Cut:
        self.attempts.follow(report, context)
        self._active += 1
        self._idle.clear()
        return self.cuts.enter(report.owner.request_id)

    def _leave(self, report: Report, cut: Cut) -> None:
        self.cuts.leave(report.owner.request_id, cut)
        self._active -= 1
        if self._active == 0:
            self._idle.set()


def is_resumable(demand: Demand, owner: Owner) -> bool:
    """An engine can't enter a JSON schema in its middle."""
    return owner.resumable and demand.sampling.json_schema is None


_ALL_WRITTEN = Step("", 0, finish_reason=FinishReason.LENGTH)


def _operation(prompt: Prompt) -> str:
    return "chat" if isinstance(prompt, Chat) else "text_completion"
