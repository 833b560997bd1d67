"""Our words for vLLM's: sampling values on the way in, steps on the way out."""

from collections.abc import Mapping, Sequence

from vllm import RequestOutput, SamplingParams
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from services.runtime.core.engine import EngineFailed, FinishReason, Job, Step, TokenLogprob
from services.runtime.core.sampling import Sampling

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def sampling_params(job: Job, *, stop: Sequence[str]) -> SamplingParams:
    sampling = job.sampling
    return SamplingParams(
        max_tokens=job.max_output_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=list(stop),
        logprobs=sampling.logprobs,
        ignore_eos=sampling.ignore_eos,
        structured_outputs=_structure(sampling),
        output_kind=RequestOutputKind.DELTA,
    )


def step_of(output: RequestOutput, sampling: Sampling) -> Step:
    made = output.outputs[0]
    return Step(
        text=made.text,
        tokens=len(made.token_ids),
        logprobs=_logprobs(made.token_ids, made.logprobs, sampling.logprobs),
        finish_reason=_finish_reason(made.finish_reason),
        cached_prompt_tokens=output.num_cached_tokens or 0,
    )


def _structure(sampling: Sampling) -> StructuredOutputsParams | None:
    if sampling.json_schema is None:
        return None
    if sampling.json_schema == "{}":
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=sampling.json_schema)


def _finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason not in _FINISH_REASONS:
        raise EngineFailed(f"vLLM ended the request with {reason}")
    return _FINISH_REASONS[reason]


def _logprobs(
    tokens: Sequence[int],
    positions: Sequence[Mapping[int, Logprob]] | None,
    alternatives: int | None,
) -> Sequence[TokenLogprob]:
    if positions is None or alternatives is None:
        return ()
    return [
        _token_logprob(position[token], list(position.values()), alternatives)
        for token, position in zip(tokens, positions, strict=True)
    ]


def _token_logprob(chosen: Logprob, known: Sequence[Logprob], alternatives: int) -> TokenLogprob:
    """Likeliest first, and of equals (bfloat16 has many) the chosen one."""
    likeliest = sorted(known, key=lambda other: (-other.logprob, other is not chosen))
    return TokenLogprob(
        token=chosen.decoded_token or "",
        logprob=chosen.logprob,
        alternatives=[
            (other.decoded_token or "", other.logprob) for other in likeliest[:alternatives]
        ],
    )
