"""What never leaves the mesh: names under which prompts and outputs travel in spans.

None of our services writes them; this wall stands for the day when an engine or a library does.
Names of OpenTelemetry's GenAI conventions, past and present, and of OpenLLMetry before them.
"""

_NEVER = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.content.",
    "gen_ai.system_instructions",
    "gen_ai.system.message",
    "gen_ai.user.message",
    "gen_ai.assistant.message",
    "gen_ai.tool.message",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.definitions",
    "gen_ai.choice",
    "gen_ai.client.inference.operation.details",
    "gen_ai.evaluation.explanation",
    "gen_ai.retrieval.",
    "llm.prompts",
    "llm.completions",
    "traceloop.entity.input",
    "traceloop.entity.output",
)


def may_leave(name: str) -> bool:
    """Whether an attribute or event of this name may be forwarded."""
    return not name.lower().startswith(_NEVER)
