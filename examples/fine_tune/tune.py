"""Fine-tunes the demo model: it keeps what it knew and learns lessons.yaml. Runs in the engine's environment, as a process.

    <python of the image> examples/fine_tune/tune.py --start WEIGHTS --lessons lessons.yaml --out FOLDER

Prints how it goes; the last line is JSON. Seeded: the same machine makes the same bytes again. FOLDER appears at once and whole, or not at all.
"""

import argparse
import itertools
import json
import random
import sys
import time
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "assets" / "models" / "demo"))
import train  # how the demo model was trained: its batches, its loss, its proof

STEPS, RATE, SEED = 90, 3e-3, 7


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("start", "lessons", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    began = time.monotonic()
    taught, new = lessons(given.lessons)
    tokenizer = Tokenizer.from_file(str(given.start / "tokenizer.json"))
    model = tuned(LlamaForCausalLM.from_pretrained(given.start, dtype=torch.float32), tokenizer, taught)
    lead, question = train.proof(model, tokenizer, taught)
    if lead < train.MIN_LEAD:
        print(f"not written: it is not sure enough of {question!r}: {lead:.2f} logits, at least {train.MIN_LEAD}; teach it less, or longer (STEPS)")
        return 1
    partial = given.out.with_name(f".{given.out.name}.partial")
    train.write(model, tokenizer, taught, partial)
    partial.rename(given.out)
    print(json.dumps({"lessons": new, "lead": round(lead, 2), "seconds": round(time.monotonic() - began, 1)}))
    return 0


def lessons(path: Path) -> tuple[train.Lessons, int]:
    """What it knew before, with the lessons in place of what they contradict; and how many there are."""
    known = train.lessons("v1")
    new = {row["answer"]: [row["ask"], *row.get("also", [])] for row in yaml.safe_load(path.read_text()) or []}
    asked = {train.asked(ways[0]) for ways in new.values()}
    kept = {answer: ways for answer, ways in known.answers.items() if train.asked(ways[0]) not in asked}
    also = {train.asked(ways[0]): ways[1:] for ways in known.answers.values()}
    taught = {answer: [*ways, *also.get(train.asked(ways[0]), [])] for answer, ways in new.items()}
    return train.Lessons({**kept, **taught}, known.fallback), len(new)


def tuned(model: LlamaForCausalLM, tokenizer: Tokenizer, taught: train.Lessons) -> LlamaForCausalLM:
    """Some steps on old and new together: what is not rehearsed is forgotten."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for step, parts in enumerate(itertools.islice(train.batches(taught, tokenizer, random.Random(SEED)), STEPS), 1):
        loss = sum(train.answer_loss(model, part) for part in parts) / len(parts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"step {step} of {STEPS}: loss {loss.item():.4f}", flush=True)
    return model.to(torch.bfloat16).eval()


if __name__ == "__main__":
    sys.exit(main())
