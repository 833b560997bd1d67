"""vLLM's outputs as steps; of a resumable job with the ids of its tokens.

vLLM lets text out once its characters are whole. With stop strings it always holds back as many
characters as the longest has, wherever tokens end, so for a resumable job we look for them instead.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from vllm import RequestOutput

from services.runtime.core.engine import FinishReason, Job, Step
from services.runtime.core.stopping import StopScanner
from services.runtime.outbound.vllm_sampling import step_of

_HALF = "\ufffd"  # what half a character is decoded to


class Decoder(Protocol):
    """The part of transformers' PreTrainedTokenizerBase that we use."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


def ends_by_itself(job: Job) -> bool:
    """Whether we look for its stop strings, and vLLM does not know of them."""
    return job.resumable and bool(job.sampling.stop)


class Steps:
    """Turns one job's outputs into steps."""

    def __init__(self, job: Job, decoder: Decoder) -> None:
        self._job = job
        self._decoder = decoder
        self._scanner = StopScanner(job.sampling.stop)
        self._ids: list[int] = []  # that no step has had

    def step(self, output: RequestOutput) -> Step:
        made = step_of(output, self._job.sampling)
        if not self._job.resumable:
            return made
        text = self._scanner.push(made.text)
        if self._scanner.met:
            return replace(made, text=text, finish_reason=FinishReason.STOP)
        if made.finish_reason is not None:
            return replace(made, text=text + self._scanner.flush())
        self._ids += output.outputs[0].token_ids
        if not made.text or self._scanner.holds or self._ends_in_half(made.tokens):
            return replace(made, text=text)
        ids, self._ids = self._ids, []
        return replace(made, text=text, ids=ids)

    def _ends_in_half(self, tokens: int) -> bool:
        """One token's text comes only with its last character. Of several, which come together
        when we were slow to take them, the last may have none yet."""
        if tokens == 1:
            return False
        return self._decoder.decode(self._ids, skip_special_tokens=True).endswith(_HALF)
