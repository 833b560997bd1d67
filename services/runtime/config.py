"""Everything the runtime can be told, read once at start from RUNTIME_* variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    engine: str = setting(
        environ.one_of("vllm", "llamacpp", "simulated"),
        help="vllm, llamacpp or simulated; the last has no model and is for tests and benches",
    )
    listen: Address = setting(
        environ.address, help="where the gateway and routers connect, host:port"
    )
    advertise: Address | None = setting(
        environ.address,
        default=None,
        help="host:port to show to callers as the one that answered; unset, where it listens",
    )
    tls: Path = setting(
        environ.path, help="folder with cert.pem, key.pem, ca.pem and, if any, crl.pem; followed"
    )
    model: str = setting(
        environ.text, default="simulated", help="the model's name, as callers ask for it"
    )
    model_version: str = setting(
        environ.text, default="simulated", help="which weights; shown with every answer"
    )
    model_path: Path | None = setting(
        environ.path,
        default=None,
        help="llamacpp: a GGUF file; vllm: a Hugging Face folder; simulated: unused",
    )
    max_running: int = setting(
        environ.positive_int, default=8, help="requests worked on at once; more wait"
    )
    max_context_tokens: int = setting(
        environ.positive_int,
        default=2048,
        help="prompt and output of one request together; memory grows with it",
    )
    kv_cache_mib: int | None = setting(
        environ.positive_int,
        default=None,
        help="vllm: MiB of KV cache; unset, what vLLM finds free on its GPU",
    )
    step_tokens: int | None = setting(
        environ.positive_int,
        default=None,
        help="prompt tokens read in one step; a cancel waits for two of them at most; "
        "unset, 16 for llamacpp, vLLM's choice for vllm",
    )
    threads: int = setting(
        environ.positive_int,
        default=2,
        help="llamacpp: processor threads; more than the machine has free slow all down",
    )
    eager: bool = setting(
        environ.flag,
        default=False,
        help="vllm: start without compiling; set it on a CPU, where compiling takes a minute",
    )
    otlp: Address | None = setting(
        environ.address, default=None, help="telemetry's OTLP address; unset, no spans are sent"
    )
    trace_share: float = setting(
        environ.share, default=1.0, help="share of traces begun here that are kept, 0 to 1"
    )
    stall_s: float = setting(
        environ.positive,
        default=3.0,
        help="seconds in which an engine with work makes no step, after which its requests end as "
        "ENGINE_STALLED; longer than its longest step",
    )
    pool: str | None = setting(
        environ.text,
        default=None,
        help="serves only tenants that policy puts into this pool; unset, those of no pool",
    )
    policy: Address | None = setting(
        environ.address,
        default=None,
        help="policy's address, which is told what each attempt took; unset, requests that budgets "
        "count are refused",
    )
    journal: Path | None = setting(
        environ.path,
        default=None,
        help="file, of this runtime alone and on a disk that outlives it, in which attempts are "
        "kept until policy has booked them; required with RUNTIME_POLICY",
    )
    journal_attempts: int = setting(
        environ.positive_int,
        default=2_000_000,
        help="attempts that the journal holds while policy is away, some 500 bytes each; more are "
        "refused where a hard budget counts them",
    )
    drain_s: float = setting(
        environ.positive, default=10.0, help="how long running requests may go on after SIGTERM"
    )

    def __post_init__(self) -> None:
        if self.listen.is_unix:
            raise ValueError(f"listen must be host:port, got {self.listen}")
        if (self.policy is None) != (self.journal is None):
            raise ValueError("policy and journal must be set together, or neither")
        if self.engine == "simulated":
            return
        if self.model_path is None or not self.model_path.exists():
            raise ValueError(f"model_path must be there for {self.engine}, got {self.model_path}")
        if "simulated" in (self.model, self.model_version):
            raise ValueError(f"model and model_version must be set for {self.engine}")

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "RUNTIME", variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """Only with RUNTIME_ENGINE=simulated. The defaults are core/simulation.py's."""

    step_s: float = setting(environ.positive, default=0.012, help="seconds that every step takes")
    step_per_sequence_s: float = setting(
        environ.positive, default=0.0001, help="seconds more for each token written in a step"
    )
    prefill_per_token_s: float = setting(
        environ.positive, default=0.0001, help="seconds more for each prompt token read in a step"
    )
    prefill_chunk_tokens: int = setting(
        environ.positive_int, default=512, help="prompt tokens read in one step at most"
    )
    kv_blocks: int = setting(environ.positive_int, default=8192, help="KV blocks in all")
    kv_block_tokens: int = setting(environ.positive_int, default=16, help="tokens in one block")
    mean_answer_tokens: int = setting(
        environ.positive_int, default=128, help="where the model would stop by itself, on average"
    )
    seed: int = setting(environ.count, default=0, help="the same seed simulates the same")
    straggler_share: float = setting(
        environ.share, default=0.0, help="share of requests whose first token comes late"
    )
    straggler_s: float = setting(environ.positive, default=1.0, help="how late, in seconds")
    lost_share: float = setting(
        environ.share, default=0.0, help="share of requests that fail at some token"
    )
    crash_after_tokens: int = setting(
        environ.count, default=0, help="output tokens after which the whole engine fails; 0: never"
    )
    hang_on_signal: bool = setting(
        environ.flag,
        default=False,
        help="true: SIGUSR1 stops all steps, and the next one lets them go on",
    )

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "RUNTIME_SIMULATED", variables)
