"""What a request took, told once when it ends: in its trailers, its span and its log line."""

from collections.abc import Iterable

import grpc
from opentelemetry import trace

from services.chassis.logs import add_facts
from services.runtime.core.attempts import Attempt
from services.runtime.core.degrading import Degradation
from services.runtime.core.engine import Engine, Step
from services.runtime.core.whole import Whole
from services.runtime.inbound.owners import Owner

DEGRADATIONS_HEADER = "x-evenflow-degradations"
PROMPT_HEADER = "x-evenflow-prompt"
MOST_ANSWER_BYTES = 256 << 10  # of one that a router may keep


class Report:
    """Counts one request. Attribute names: OpenTelemetry's GenAI semantic conventions."""

    def __init__(self, engine: Engine, owner: Owner) -> None:
        self.owner = owner
        self.operation = "chat"
        self.prompt_tokens = 0  # of a resumed request, with what was written before
        self.resumed_tokens = 0  # of these
        self.cached_tokens = 0
        self.output_tokens = 0  # written anew
        self.output_cut = False
        self.prompt_cut = False
        self._engine = engine
        self._first: Step | None = None
        self._finish_reason = ""
        self._whole = Whole(most_bytes=MOST_ANSWER_BYTES) if owner.cache_key else None

    @property
    def model_version(self) -> str:
        return self._engine.version

    @property
    def has_begun(self) -> bool:
        """Whether a token was made."""
        return self._first is not None

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        """Those that were done, in the router's order."""
        return self.owner.orders.done(output_cut=self.output_cut, prompt_cut=self.prompt_cut)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What is known with the first token: which version of a prompt it is, what was degraded,
        and by which attempt."""
        done, prompt = self.degradations, self.owner.prompt
        return (
            *(((PROMPT_HEADER, prompt),) if prompt else ()),
            *(((DEGRADATIONS_HEADER, _text(done)),) if done else ()),
            *self._attempt_header(),
        )

    def _attempt_header(self) -> tuple[tuple[str, str], ...]:
        """If it is not the first: Envoy knows who answered, but tells the router of the attempt
        that it sent last."""
        attempt = self.owner.attempt
        return (("x-evenflow-attempt", str(attempt)),) if attempt > 1 else ()

    def asks(self, prompt_tokens: int, *, resumed_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens + resumed_tokens
        self.resumed_tokens = resumed_tokens

    def is_first(self, step: Step) -> bool:
        return step is self._first

    def add(self, step: Step) -> None:
        self._first = self._first or step
        self.output_tokens += step.tokens
        self.cached_tokens = step.cached_prompt_tokens
        if step.finish_reason is not None:
            self._finish_reason = step.finish_reason.value
        if self._whole is not None:
            self._whole.add(step)

    def whole(self) -> Step | None:
        """All that was written, as one step; None: no router wants it, or it is none to keep."""
        return self._whole.step() if self._whole is not None else None

    def attempt(self) -> Attempt:
        """As far as it has come."""
        return Attempt(
            request_id=self.owner.request_id,
            number=self.owner.attempt,
            tenant=self.owner.tenant,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            has_begun=self.has_begun,
        )

    def end(self, context: grpc.aio.ServicerContext) -> None:
        context.set_trailing_metadata(self._trailers())
        self._describe(trace.get_current_span())
        add_facts(
            request_id=self.owner.request_id,
            tenant=self.owner.tenant,
            workload_class=self.owner.workload_class,
            model=self._engine.model,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            attempt=self.owner.attempt,
            **({"degraded": _text(self.degradations)} if self.degradations else {}),
            **({"prompt": self.owner.prompt} if self.owner.prompt else {}),
            resumed_tokens=self.resumed_tokens,
        )

    def _trailers(self) -> tuple[tuple[str, str], ...]:
        return (
            ("x-evenflow-prompt-tokens", str(self.prompt_tokens)),
            ("x-evenflow-cached-tokens", str(self.cached_tokens)),
            ("x-evenflow-output-tokens", str(self.output_tokens)),
            ("x-evenflow-model-version", self._engine.version),
            ("x-evenflow-engine", self._engine.name),
            *self._attempt_header(),
        )

    def _describe(self, span: trace.Span) -> None:
        span.update_name(f"{self.operation} {self._engine.model}")
        span.set_attributes(
            {
                "gen_ai.operation.name": self.operation,
                "gen_ai.request.model": self._engine.model,
                "gen_ai.response.model": self._engine.model,
                "gen_ai.usage.input_tokens": self.prompt_tokens,
                "gen_ai.usage.output_tokens": self.output_tokens,
                "evenflow.tenant": self.owner.tenant,
                "evenflow.workload": self.owner.workload,
                "evenflow.workload_class": self.owner.workload_class,
                "evenflow.request_id": self.owner.request_id,
                "evenflow.cached_tokens": self.cached_tokens,
                "evenflow.resumed_tokens": self.resumed_tokens,
                "evenflow.model_version": self._engine.version,
                "evenflow.engine": self._engine.name,
                "evenflow.attempt": self.owner.attempt,
            }
        )
        if self.owner.prompt:
            span.set_attribute("evenflow.prompt", self.owner.prompt)
        if done := self.degradations:
            span.set_attribute("evenflow.degradations", _text(done))
        if self._finish_reason:
            span.set_attribute("gen_ai.response.finish_reasons", [self._finish_reason])


async def said_first(report: Report, context: grpc.aio.ServicerContext) -> None:
    """Sends the headers where they say something; else they leave with the first message."""
    if headers := report.headers():
        await context.send_initial_metadata(headers)


def _text(done: Iterable[Degradation]) -> str:
    return ",".join(map(str, done))
