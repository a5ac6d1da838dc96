"""What a small published model looks like as files: what every source of the tests holds."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path


def tensors(*shapes: tuple[str, str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A safetensors file with these (name, dtype, shape), filled with noise."""
    width = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1}
    header, at = {}, 0
    for name, dtype, shape in shapes:
        size = width[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + random.Random(seed).randbytes(at)


def model_files(seed: int = 0, rows: int = 1000) -> dict[str, bytes]:
    """What a small published model looks like: configuration, tokenizer, weights of about `rows` x 200 bytes, and things nobody needs."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 100, "vocab_size": rows}
    return {
        "config.json": json.dumps(config).encode(),
        "generation_config.json": b'{"max_new_tokens": 16}',
        "tokenizer.json": b'{"version": "1.0", "model": {"type": "BPE"}}',
        "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
        "model.safetensors": tensors(("embed", "BF16", (rows, 100)), ("norm", "F32", (10,)), seed=seed),
        "README.md": b"# A model",
        ".gitattributes": b"*.safetensors filter=lfs",
        "images/curve.png": b"png",
    }


def lay_model(folder: Path, seed: int = 0, rows: int = 10) -> Path:
    """These files as a source on this machine, without those in folders. Their time is the same everywhere."""
    folder.mkdir(parents=True)
    for path, content in model_files(seed, rows).items():
        if "/" not in path:
            (folder / path).write_bytes(content)
            os.utime(folder / path, (0, 0))
    return folder
