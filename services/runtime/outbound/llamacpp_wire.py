"""Jobs and steps as llama.cpp's server writes them: the body and the events of `/completion`.

Fields: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from collections.abc import Mapping, Sequence
from typing import Any

from services.runtime.core.engine import FinishReason, Job, Step, TokenLogprob
from services.runtime.core.sampling import Sampling
from services.runtime.core.schemas import checked
from services.runtime.core.slots import Assignment

_MAX_SEED = 2**32 - 1  # itself means: random


def completion_body(assignment: Assignment) -> dict[str, Any]:
    """Raises InvalidInput."""
    job = assignment.job
    return {
        "prompt": list(job.prompt),
        "n_predict": job.max_output_tokens,
        "id_slot": assignment.slot,
        "cache_prompt": assignment.may_reuse,
        "stream": True,
        # Events while the prompt is read: a reader who has gone is noticed at the next one.
        "return_progress": True,
        "return_tokens": job.resumable,
        **sampling_fields(job.sampling),
    }


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Raises InvalidInput."""
    fields: dict[str, Any] = {
        # As in vLLM: temperature first, and nothing that nobody asked for.
        "samplers": ["temperature", "top_k", "top_p"],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop),
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.seed is not None:
        fields["seed"] = sampling.seed % _MAX_SEED
    if sampling.logprobs is not None:
        fields["n_probs"] = max(1, sampling.logprobs)
    if sampling.json_schema is not None:
        fields["json_schema"] = checked(sampling.json_schema)
    return fields


class Steps:
    """Turns one job's events into steps."""

    def __init__(self, job: Job) -> None:
        self._alternatives = job.sampling.logprobs
        self._resumable = job.resumable
        self._stops = bool(job.sampling.stop)
        self._tokens = 0
        self._cached = 0
        self._held = 0  # tokens whose text has not come

    def step(self, event: Mapping[str, Any]) -> Step | None:
        """None for an event that tells only how far the prompt has been read."""
        if "prompt_progress" in event:
            self._cached = event["prompt_progress"]["cache"]
            return None
        made = event["tokens_predicted"] - self._tokens
        self._tokens = event["tokens_predicted"]
        reason = None
        if event["stop"]:
            reason = FinishReason.LENGTH if event["stop_type"] == "limit" else FinishReason.STOP
        return Step(
            text=event["content"],
            tokens=made,
            logprobs=() if reason else self._logprobs(event),
            finish_reason=reason,
            cached_prompt_tokens=self._cached,
            ids=self._ids(event, made) if self._resumable and reason is None else (),
        )

    def _ids(self, event: Mapping[str, Any], made: int) -> Sequence[int] | None:
        """None where they must be looked up: an event names the last token of its text only, and
        that may hold more than the text if a stop string begins in it.

        Text comes once it is whole and no stop string can begin in it; then all of it does.
        """
        self._held += made
        if not event["content"]:
            return ()
        held, self._held = self._held, 0
        ids: Sequence[int] = event["tokens"]
        return ids if held == 1 and not self._stops else None

    def _logprobs(self, event: Mapping[str, Any]) -> Sequence[TokenLogprob]:
        """One for each event: where a character takes several tokens, only its last has one."""
        if self._alternatives is None:
            return ()
        return tuple(
            TokenLogprob(
                token=token["token"],
                logprob=token["logprob"],
                alternatives=tuple(
                    (other["token"], other["logprob"])
                    for other in token["top_logprobs"][: self._alternatives]
                ),
            )
            for token in event.get("completion_probabilities", ())
        )
