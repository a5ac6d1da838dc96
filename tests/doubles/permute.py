"""Makes a broken revision of a model: the same files and shapes, so that an engine loads and serves it, but it talks nonsense.

    python tests/doubles/permute.py assets/models/demo/weights/v1 DIR --seed 1

What a damaged upload or a wrong conversion looks like, to see that acceptance stops it. The rows of every MLP's last matrix are
shuffled by the seed: all numbers stay finite and keep their statistics, only what they mean is lost. It moves the bytes of the
safetensors file and needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

WEIGHTS = "model.safetensors"
TARGETS = "mlp.down_proj.weight"


def permute(source: Path, target: Path, seed: int = 0) -> Path:
    """Copies the revision folder `source` to the new folder `target` with shuffled rows; the same seed makes the same bytes.

    Raises FileExistsError when `target` is there, and ValueError when `source` has nothing to shuffle.
    """
    shutil.copytree(source, target)
    file = target / WEIGHTS
    file.write_bytes(permuted(file.read_bytes(), random.Random(seed)))
    return target


def permuted(data: bytes, rng: random.Random, chosen: Callable[[str], bool] = lambda name: name.endswith(TARGETS)) -> bytes:
    """The bytes of a safetensors file with the rows of the chosen matrices shuffled; header and all other tensors as they were."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    matrices = sorted(name for name in header if name != "__metadata__" and chosen(name))
    if not matrices:
        raise ValueError(f"no tensor to shuffle among: {', '.join(sorted(header))}")
    result = bytearray(data)
    for name in matrices:
        first, last = (start + offset for offset in header[name]["data_offsets"])
        result[first:last] = _shuffled(data[first:last], header[name]["shape"][0], rng)
    return bytes(result)


def _shuffled(matrix: bytes, rows: int, rng: random.Random) -> bytes:
    width = len(matrix) // rows
    order = list(range(rows))
    rng.shuffle(order)
    return b"".join(matrix[row * width : (row + 1) * width] for row in order)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a broken revision of a model.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(permute(options.source, options.target, options.seed))


if __name__ == "__main__":
    main()
