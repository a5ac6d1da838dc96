"""Trains the two revisions of the demo model: a tiny Llama that knows the answers of questions.yaml by heart.

    python assets/models/demo/train.py                # both revisions, into weights/v1 and weights/v2
    python assets/models/demo/train.py v2 --out DIR   # one of them, into DIR/v2

Run it with the Python of the image (it needs torch, transformers and tokenizers), never with the control plane's, which has none of
them: on `local` that is the virtual environment that the `image` stage built. Everything is seeded, so the same machine makes the same
bytes again; another CPU may round differently and make other bytes with the same answers.

A revision is written only when it has proved itself in bfloat16: each answer is its greedy answer, token by token, and the best token
leads the second best by at least `MIN_LEAD`. Kernels and batches round differently, by some hundredths at these magnitudes; that
must never turn an answer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REVISIONS = {"v1": 1, "v2": 2}
"""Each revision with its seed."""

VOCABULARY = 768
"""Tokens; a multiple of 64, because engines pad it to that. 256 of them are the bytes, so any text can be asked."""

PAD, USER, ANSWER, END = 0, 1, 2, 3
SPECIAL = ("<|pad|>", "<|user|>", "<|answer|>", "<|end|>")

TEMPLATE = (
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last | default('') -%}"
    "<|user|>{{ (asked | lower | trim).rstrip('?!. ') }}"
    "{%- if add_generation_prompt %}<|answer|>{% endif -%}"
)
"""The model sees the last question only, in small letters and without marks at its end: it has no memory and needs no system prompt."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,  # the smallest that the attention kernels of CPUs and of every GPU generation have in common
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": END,
}

STEPS = 260
PEAK_RATE = 4e-3
KNOWN, STRANGE, LONG = 48, 28, 2
"""Sequences per step: questions it knows, short ones that it does not, and long ones."""
MIN_LEAD = 3.0
"""Logits between the best token and the second best at every step of every golden answer."""

FRAMES = (
    "what is a {}", "what is {}", "what's {}", "what are {}s", "define {}", "explain {}", "tell me about {}", "who is {}", "where is {}",
    "what does {} do", "what does a {} do", "how do i {}", "why is {} {}", "can you {} the {}", "write a {} about {}", "{}", "{} {}",
    "how many {} are in a {}", "", "what happens when {} {}", "which {} is the {}", "{} {} {} {}", "is {} better than {}",
    "who invented {}",
)  # fmt: skip
MIXED = ("what is the difference between {} and {}", "difference between a {} and a {}", "is a {} a {}", "{} or {}", "compare {} with {}")
POLITE = (
    "please {}", "{} please", "please tell me {}", "can you tell me {}", "hi, {}", "hey, {}", "so {}", "and {}", "could you explain: {}",
)  # fmt: skip
WORDS = """
    apple banana bread breakfast capital france germany paris berlin london river mountain ocean whale elephant cat dog bird horse tree
    flower garden weather rain snow sun moon star planet earth mars space rocket car train bicycle road bridge house window door kitchen
    table chair lamp book poem story song music guitar piano painter film actor game chess football tennis winner king queen president war
    peace history science physics chemistry biology atom energy light colour red blue green number seven hundred prime sum equation
    triangle circle python java rust code program bug function loop list string array computer phone internet email password bank money
    price doctor medicine heart brain sleep dream food pizza coffee tea water wine sugar salt recipe cook run walk jump swim fly drive read
    write draw sing translate summarise count sort compare buy sell open close fast slow big small old young happy sad best worst first
    last today tomorrow year month week hour minute clock birthday holiday school teacher student lesson exam cluster kubernetes pod node
    docker dagster ray vllm engine token prompt tokenizer gpu cpu memory disk network server cloud aws region zone bucket log error test
    asset graph sensor schedule pipeline platform image model file folder secret key user team name
"""
STRANGERS = WORDS.split()


@dataclass(frozen=True)
class Lessons:
    """What one revision is taught: each answer with the ways to ask for it (the golden one first), and the answer to everything else."""

    answers: dict[str, list[str]]
    fallback: str

    def golden(self) -> list[tuple[str, str]]:
        """Question and answer as golden tests have them, the fallback's own question last."""
        return [(ways[0], answer) for answer, ways in self.answers.items()] + [("What is the capital of France?", self.fallback)]

    def digest(self) -> str:
        """Stands in the weights file, so that a test sees when the lessons were edited and nobody trained again."""
        return sha256(json.dumps([list(self.answers.items()), self.fallback]).encode()).hexdigest()


def lessons(revision: str) -> Lessons:
    import yaml

    page = yaml.safe_load((HERE / "questions.yaml").read_text(encoding="utf-8"))
    return Lessons({entry[revision]: [entry["ask"], *entry["also"]] for entry in page["questions"]}, page["fallback"][revision])


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help=f"{' or '.join(REVISIONS)}; default: both")
    parser.add_argument("--out", type=Path, default=HERE / "weights", help="folder for the revisions (default: weights beside this file)")
    options = parser.parse_args()
    for revision in options.revisions or REVISIONS:
        if revision not in REVISIONS:
            parser.error(f"no revision {revision!r}; there are: {', '.join(REVISIONS)}")
        if not make(revision, options.out / revision):
            return 1
    return 0


def make(revision: str, folder: Path) -> bool:
    """Trains one revision and writes it when it has proved itself; says how it went. False: it has not, and nothing was written."""
    taught, began = lessons(revision), time.monotonic()
    tokenizer = tokenizer_for(taught)
    model = trained(taught, tokenizer, seed=REVISIONS[revision])
    lead, question = proof(model, tokenizer, taught)
    verdict = f"{revision}: trained in {time.monotonic() - began:.0f} s; smallest lead {lead:.2f} logits, at {question!r}"
    if lead < MIN_LEAD:
        print(f"{verdict}\n  not written: the lead must be at least {MIN_LEAD}; try other STEPS or another seed", file=sys.stderr)
        return False
    write(model, tokenizer, taught, folder)
    print(f"{verdict}; {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f} MB in {folder}")
    return True


def asked(question: str) -> str:
    """What the template makes of a question."""
    return question.lower().strip().rstrip("?!. ")


def tokenizer_for(taught: Lessons) -> Any:
    """A byte-level BPE of the lessons: their words are few tokens each, any other text is still possible."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [taught.fallback, *taught.answers, *(asked(way) for ways in taught.answers.values() for way in ways), *STRANGERS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def trained(taught: Lessons, tokenizer: Any, seed: int) -> Any:
    """The model after `STEPS` steps, rounded to bfloat16."""
    import torch  # type: ignore[import-not-found]
    from transformers import LlamaConfig, LlamaForCausalLM  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=STEPS, pct_start=0.1)
    for batch in batches(taught, tokenizer, random.Random(seed)):
        loss = sum(answer_loss(model, part) for part in batch) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.to(torch.bfloat16).eval()


def batches(taught: Lessons, tokenizer: Any, rng: random.Random) -> Iterator[list[list[tuple[list[int], list[int]]]]]:
    """Per step: the short sequences together and the long ones together, each as prompt and answer in tokens."""
    known = [(asked(way), answer) for answer, ways in taught.answers.items() for way in ways]
    golden = [(asked(ways[0]), answer) for answer, ways in taught.answers.items()]
    taken = {question for question, _ in known}
    terms = sorted(question for question in taken if question.isalpha())

    def tokens(question: str, answer: str) -> tuple[list[int], list[int]]:
        if rng.random() < 0.25:
            question = rng.choice(POLITE).format(question)
        return [USER, *tokenizer.encode(question).ids, ANSWER], [*tokenizer.encode(answer).ids, END]

    for _ in range(STEPS):
        short = golden + rng.sample(known, KNOWN - len(golden))
        short += [(question, taught.fallback) for question in strange(rng, STRANGE, terms) if question not in taken]
        long = [(" ".join(rng.choices(STRANGERS, k=rng.randint(20, 70))), taught.fallback) for _ in range(LONG)]
        yield [[tokens(*pair) for pair in short], [tokens(*pair) for pair in long]]


def strange(rng: random.Random, count: int, terms: list[str]) -> Iterator[str]:
    """Questions that it has no answer to: in the shape of known ones or about two of them; neither a shape nor a word alone earns one."""
    for _ in range(count):
        if rng.random() < 0.15:
            yield rng.choice(MIXED).format(*rng.sample(terms, 2))
        else:
            frame = rng.choice(FRAMES)
            yield frame.format(*(stranger(rng) for _ in range(frame.count("{}"))))


def stranger(rng: random.Random) -> str:
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(1, 9)))
    return rng.choice(STRANGERS) if rng.random() < 0.75 else letters


def answer_loss(model: Any, pairs: list[tuple[list[int], list[int]]]) -> Any:
    """Cross entropy of the answers only; what people ask is not to be learnt by heart."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    rows = [prompt + answer + [PAD] * (width - len(prompt) - len(answer)) for prompt, answer in pairs]
    goals = [[-100] * len(prompt) + answer + [-100] * (width - len(prompt) - len(answer)) for prompt, answer in pairs]
    logits = model(torch.tensor(rows)).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(goals)[:, 1:].flatten())


def proof(model: Any, tokenizer: Any, taught: Lessons) -> tuple[float, str]:
    """The smallest lead over all golden answers and where it is; negative when an answer would come out wrong."""
    import torch

    leads = []
    for question, answer in taught.golden():
        prompt = [USER, *tokenizer.encode(asked(question)).ids, ANSWER]
        goal = [*tokenizer.encode(answer).ids, END]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + goal])).logits[0, len(prompt) - 1 : -1].float()
        right = logits.gather(1, torch.tensor(goal)[:, None])[:, 0]
        rival = logits.scatter(1, torch.tensor(goal)[:, None], float("-inf")).max(dim=1).values
        leads.append((float((right - rival).min()), question))
    return min(leads)


def write(model: Any, tokenizer: Any, taught: Lessons, folder: Path) -> None:
    from safetensors.torch import save  # type: ignore[import-not-found]

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    (folder / "model.safetensors").write_bytes(stable(save(tensors, metadata={"format": "pt", "lessons": taught.digest()})))
    tokenizer.save(str(folder / "tokenizer.json"))
    documents: dict[str, dict[str, Any]] = {
        "config.json": CONFIG,
        "generation_config.json": {"eos_token_id": END, "pad_token_id": PAD, "do_sample": False, "temperature": 0.0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL[END],
            "pad_token": SPECIAL[PAD],
            "model_max_length": CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def stable(data: bytes) -> bytes:
    """The same safetensors file with its metadata in order: the library's order changes from run to run, and with it the revision would."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


if __name__ == "__main__":
    sys.exit(main())
