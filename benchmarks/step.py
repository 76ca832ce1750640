"""The packed DPO step against TRL's DPOTrainer: time and peak memory, side by side, on the embedded model.

    python benchmarks/step.py [--rounds 5] [--pairs 4] [--prompt 150] [--response 60] [--model smollm2-135m]

Both train a LoRA of rank 16 on q, k, v, o in fp32 on the same token ids; TRL has the reference model in the loop (its
default), paretune has its log-probabilities cached. Times are process CPU-seconds of one step on one thread, taken in
turn; the process keeps freed memory (`paretune.memory`), so neither pays for mapping it anew. Memory is the growth of the
peak over two steps, each variant in a process of its own. The figures count only when both give the same losses and
log-probabilities, which is checked first (at the start an adapter adds nothing, so the loss alone is log 2 for any model).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from paretune.memory import keep_freed_memory

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
VARIANTS = ("paretune", "trl")

Step = Callable[[], tuple[float, float, float]]
"""One training step; returns its loss and the mean log-probabilities of chosen and of rejected responses."""


def token_pairs(
    count: int, prompt: int, response: int, vocabulary: int
) -> list[tuple[list[int], list[int], list[int]]]:
    """Return pairs of random tokens with lengths around the given means, the same for every variant."""
    generator = torch.Generator().manual_seed(0)

    def draw(mean: int) -> list[int]:
        length = int(mean * (0.75 + 0.5 * torch.rand(1, generator=generator).item()))
        return torch.randint(10, vocabulary, (length,), generator=generator).tolist()

    return [(draw(prompt), draw(response), draw(response)) for _ in range(count)]


def make_paretune(source: str, pairs: list[tuple[list[int], list[int], list[int]]]) -> Step:
    """Return a function that runs one packed training step."""
    from paretune.generate import response_logps
    from paretune.lm import load
    from paretune.losses import log_ratio_gap, pair_loss
    from paretune.packing import pack, packed_logps
    from paretune.steering import Steering

    lm = load(source, "float32", "cpu")
    groups = [(prompt, [chosen, rejected]) for prompt, chosen, rejected in pairs]
    reference = torch.stack(response_logps(lm, groups))
    steering = Steering.attach(lm.model, TARGETS, 16, lm.fingerprint)
    optimizer = torch.optim.AdamW(steering.parameters(), lr=1e-6)
    gate = torch.full((16,), 2.0)

    def step() -> tuple[float, float, float]:
        optimizer.zero_grad()
        with steering.at(gate):
            logps = packed_logps(lm.model, pack(groups)).view(-1, 2)
            loss = pair_loss(log_ratio_gap(logps, reference), 0.1).mean()
            loss.backward()
        optimizer.step()
        return loss.item(), *logps.detach().mean(0).tolist()

    return step


def make_trl(source: str, pairs: list[tuple[list[int], list[int], list[int]]]) -> Step:
    """Return a function that runs TRL's own loss on its own batch layout with PEFT's LoRA."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from paretune.lm import locate

    folder = locate(source)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dataset = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}] * len(pairs))
    settings = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(pairs),
        beta=0.1,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        max_length=None,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS)
    trainer = DPOTrainer(
        model, args=settings, train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [(p, c) for p, c, _ in pairs] + [(p, r) for p, _, r in pairs]
    width = max(len(p) + len(r) for p, r in rows)
    ids, mask, completion = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end], mask[i, :end], completion[i, len(prompt) : end] = torch.tensor(prompt + response), 1, 1
    batch.update(input_ids=ids, attention_mask=mask, completion_mask=completion)
    trained = trainer.model
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-6)

    logged = trainer._metrics["train"]

    def step() -> tuple[float, float, float]:
        optimizer.zero_grad()
        loss = trainer.compute_loss(trained, batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach()), logged["logps/chosen"][-1], logged["logps/rejected"][-1]

    return step


def make(variant: str, source: str, pairs: list[tuple[list[int], list[int], list[int]]]) -> Step:
    """Return the step of a variant."""
    return make_paretune(source, pairs) if variant == "paretune" else make_trl(source, pairs)


def peak_memory(variant: str, arguments: argparse.Namespace) -> int:
    """Return the growth of peak memory over two steps in a process of its own, in bytes."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        variant,
        "--pairs",
        str(arguments.pairs),
        "--model",
        arguments.model,
    ]
    command += ["--prompt", str(arguments.prompt), "--response", str(arguments.response)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=150)
    parser.add_argument("--response", type=int, default=60)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    parser.add_argument("--memory-of", choices=VARIANTS, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = token_pairs(
        arguments.pairs, arguments.prompt, arguments.response, 20 if "tiny" in arguments.model else 40_000
    )
    if arguments.memory_of:
        step = make(arguments.memory_of, arguments.model, pairs)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step(), step()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        return
    # First, while this process is small: a child counts the peak of its parent as its own.
    memory = {variant: peak_memory(variant, arguments) for variant in VARIANTS}
    print(
        "peak memory: " + ", ".join(f"{name} {size / 2**20:.0f} MB" for name, size in memory.items()),
        flush=True,
    )
    keep_freed_memory()
    steps = {variant: make(variant, arguments.model, pairs) for variant in VARIANTS}
    values = {variant: step() for variant, step in steps.items()}
    if any(abs(ours - theirs) > 1e-4 * abs(theirs) for ours, theirs in zip(*values.values(), strict=True)):
        sys.exit(f"losses or log-probabilities differ, so the times mean nothing: {values}")
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in range(arguments.rounds):
        for variant, step in steps.items():
            start = time.process_time()
            step()
            seconds[variant].append(time.process_time() - start)
            print(f"{variant}: {seconds[variant][-1]:.3f} s", flush=True)
    result = {
        "seconds": seconds,
        "memory_bytes": memory,
        "loss_chosen_rejected": values,
        "settings": {**vars(arguments), "out": str(arguments.out)},
    }
    for variant in steps:
        times = seconds[variant]
        spread = f"{min(times):.3f} to {max(times):.3f}"
        print(f"{variant:10} {statistics.median(times):.3f} s a step ({spread})")
    ratios = sorted(b / a for a, b in zip(seconds["paretune"], seconds["trl"], strict=True))
    print(
        f"speed against TRL: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"memory: {memory['paretune'] / memory['trl']:.2f}x"
    )
    from paretune.files import write_json

    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
