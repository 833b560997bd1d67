"""What is learned from how requests ended, for those to come: estimates and paces."""

from services.router.core.endings import Code, Ended
from services.router.core.estimates import Estimates
from services.router.core.paces import Paces
from services.router.core.requests import Decision
from services.router.core.rungs import SmallerContext, SmallerOutput


class Experience:
    def __init__(self) -> None:
        self.estimates = Estimates()
        self.paces = Paces()

    def learn(self, decision: Decision, ended: Ended) -> None:
        usage = ended.usage
        if usage is None:
            return
        done = {each.rung for each in ended.degradations}
        if SmallerContext.name not in done:  # else it was not the whole prompt that was counted
            self.estimates.learn(
                decision.answering, estimated=decision.estimate, counted=usage.prompt_tokens
            )
        if ended.grpc_code == Code.OK and ended.first_token_s is not None:
            cut = SmallerOutput.name in done and usage.output_tokens >= decision.output_tokens
            self.paces.learn(
                decision.answering,
                first_token_s=ended.first_token_s,
                duration_s=ended.duration_s,
                tokens=usage.output_tokens,
                cut=cut,
            )
