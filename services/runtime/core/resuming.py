"""What callers of a resumable stream have at each moment: text, and just the tokens that wrote it.

Whoever carries the stream on puts these tokens behind the prompt, and a model writes what follows
them. Text of a token that was not told would come twice, and a token whose text was held back (half
a character, what may begin a stop string) would be lost; so both go out together, or not yet.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.runtime.core.engine import InvalidInput, Step


def check_resumed(ids: Sequence[int], *, follows_schema: bool, max_output_tokens: int) -> None:
    """Raises InvalidInput with `field` "resumed". `max_output_tokens`: of the whole answer."""
    if follows_schema:
        raise InvalidInput("resumed", "an answer that follows a JSON schema can't be carried on")
    if len(ids) > max_output_tokens:
        message = f"must be at most the {max_output_tokens} output tokens, got {len(ids)}"
        raise InvalidInput("resumed", message)


class Told:
    """Joins an engine's steps to those that may be told. It holds a few tokens at most."""

    def __init__(self) -> None:
        self._held: list[Step] = []
        self._untold = 0  # tokens made and in no ids
        self._lost = False  # an engine that can't say its tokens: nothing is held any more

    def step(self, made: Step) -> Step:
        """What may be told now: tokens as ids say; in the last step without ids, all others."""
        self._lost = self._lost or made.ids is None
        if made.ids and len(made.ids) == made.tokens and not self._held and not self._lost:
            return made
        self._held.append(made)
        self._untold += made.tokens
        if not made.ids and made.finish_reason is None and not self._lost:
            return replace(made, text="", tokens=0, logprobs=())
        held, self._held = self._held, []
        tokens = len(made.ids) if made.ids and not self._lost else max(0, self._untold)
        self._untold -= tokens
        return replace(
            made,
            text="".join(each.text for each in held),
            tokens=tokens,
            logprobs=[token for each in held for token in each.logprobs],
            ids=() if self._lost else made.ids,
        )
