"""Turns a llama-architecture GGUF into a Hugging Face folder with bfloat16 weights.

Needs gguf, numpy and tokenizers, so it runs in vLLM's environment, as a script:

    python gguf_to_hf.py SOURCE.gguf FOLDER

Quantized weights are expanded, not quantized anew: both forms hold the same numbers, up to
bfloat16's rounding. Names and layouts: the GGUF specification (ggml, docs/gguf.md), the safetensors
format, and transformers' LlamaConfig.
"""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_PLAIN_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3  # gguf's token type for those that text must not spell


class UnknownModel(ValueError):
    """The GGUF holds something that this converter does not know; it would convert it wrongly."""


def convert(source: Path, folder: Path) -> None:
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _check_known(fields)
    folder.mkdir(parents=True, exist_ok=True)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    special = _special_tokens(fields)
    _write_json(folder / "config.json", _config(fields, special, tied=tied))
    _write_json(folder / "generation_config.json", special)
    _write_tokenizer(folder, fields, special)
    _write_weights(folder / "model.safetensors", reader.tensors, fields)


def _check_known(fields: dict[str, Any]) -> None:
    known = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
    }
    for name, value in known.items():
        if fields.get(name) != value:
            raise UnknownModel(f"{name} must be {value}, got {fields.get(name)}")
    if any(name.startswith("llama.rope.scaling") for name in fields):
        raise UnknownModel("scaled rotary embeddings are not supported")


def _special_tokens(fields: dict[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _config(fields: dict[str, Any], special: dict[str, int], *, tied: bool) -> dict[str, Any]:
    epsilon = fields["llama.attention.layer_norm_rms_epsilon"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{epsilon:.6g}"),  # stored as a 32-bit float
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        **special,
    }


def _write_tokenizer(folder: Path, fields: dict[str, Any], special: dict[str, int]) -> None:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # What gguf calls "smollm": digits one by one, then GPT-2's byte-level words
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind == _CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {name.removesuffix("_id"): tokens[token] for name, token in special.items()}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        **names,
    }
    _write_json(folder / "tokenizer_config.json", about)


def _write_weights(path: Path, tensors: list[Any], fields: dict[str, Any]) -> None:
    """A safetensors file: the header's length, the header, then the weights in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]  # gguf counts from the fastest
        start, end = end, end + 2 * int(np.prod(shape))
        header[_name(tensor.name)] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors:
            file.write(_bfloat16(_weights(tensor, fields)).tobytes())


def _name(name: str) -> str:
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.weight"
    if name in _PLAIN_NAMES:
        return _PLAIN_NAMES[name]
    raise UnknownModel(f"{name} is not a weight of a llama model")


def _weights(tensor: Any, fields: dict[str, Any]) -> Any:
    shape = [int(size) for size in reversed(tensor.shape)]
    weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    part = tensor.name.split(".")[-2]
    return _halves(weights, heads[part]) if part in heads else weights


def _halves(weights: Any, heads: int) -> Any:
    """Rotary pairs as transformers wants them: gguf interleaves them, it keeps two halves."""
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(weights: Any) -> Any:
    """The upper 16 bits of each float, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(weights).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
