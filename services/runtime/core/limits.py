"""How much a request may write: what it asks for, what the model holds, what its tenant may."""

from dataclasses import dataclass

from services.runtime.core.engine import ContextTooLong, InvalidInput

USUAL_OUTPUT_TOKENS = 512  # for who doesn't say


class ContextLimit(InvalidInput):
    """Above the tenant's limit of prompt and output together; send less."""


class OutputLimit(InvalidInput):
    """Above the tenant's limit of output; ask for less."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    context_tokens: int  # prompt and output together; 0: none
    output_tokens: int  # 0: none


def output_tokens(
    asked: int | None, *, prompt_tokens: int, max_context_tokens: int, tenant: TenantLimits
) -> int:
    """The most that may be written, at least 1. What was not asked for is cut to fit.

    Raises:
        ContextTooLong, ContextLimit, OutputLimit: with `field` "prompt" or "max_output_tokens".
    """
    _check(asked, prompt_tokens, max_context_tokens, tenant)
    if asked is not None:
        return asked
    room = min(max_context_tokens, tenant.context_tokens or max_context_tokens) - prompt_tokens
    return min(USUAL_OUTPUT_TOKENS, room, tenant.output_tokens or room)


def _check(
    asked: int | None, prompt_tokens: int, max_context_tokens: int, tenant: TenantLimits
) -> None:
    wanted = asked or 1
    if tenant.output_tokens and wanted > tenant.output_tokens:
        message = f"must be at most the tenant's {tenant.output_tokens}, got {wanted}"
        raise OutputLimit("max_output_tokens", message)
    if prompt_tokens >= max_context_tokens:
        message = f"must leave room in the model's {max_context_tokens} tokens, has {prompt_tokens}"
        raise ContextTooLong("prompt", message)
    if tenant.context_tokens and prompt_tokens >= tenant.context_tokens:
        message = f"must leave room in the tenant's {tenant.context_tokens}, has {prompt_tokens}"
        raise ContextLimit("prompt", message)
    needed = prompt_tokens + wanted
    if needed > max_context_tokens:
        message = f"prompt and output must fit {max_context_tokens} tokens, got {needed}"
        raise ContextTooLong("max_output_tokens", message)
    if tenant.context_tokens and needed > tenant.context_tokens:
        message = f"prompt and output must fit the tenant's {tenant.context_tokens}, got {needed}"
        raise ContextLimit("max_output_tokens", message)
