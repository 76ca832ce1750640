"""The same step by others: padded, with full logits and the reference in the loop; and by TRL with its defaults."""

from __future__ import annotations

import importlib.util
import tempfile
import time

import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.device.equality import groups_of, padded_logps
from benchmarks.device.models import random_model, tokenizer
from benchmarks.device.rows import NotHereError, freed, peak, wait
from benchmarks.device.training_step import BETA, RANK, RATE, STEPS, Measured, Work
from paretune.models.steering import Steering


def padded_step(size: str, device: torch.device, kind: torch.dtype, work: Work) -> Measured:
    """Take DPO steps on padded texts with all logits, after a forward of the reference in each."""
    model = random_model(size, device, kind)
    model.set_attn_implementation("sdpa")
    groups = groups_of(work.lengths, model.config.vocab_size)
    freed(device)
    steering = Steering.attach(model, ["all-linear"], RANK)
    parameters = [
        parameter.requires_grad_() for layer in steering.layers.values() for parameter in (layer.U, layer.V)
    ]
    optimiser = torch.optim.AdamW(parameters, lr=RATE)
    gate, taken, losses = torch.full((RANK,), 2.0), [], []
    for _ in range(STEPS):
        wait(device)
        begin = time.perf_counter()
        with torch.no_grad(), steering.off():
            reference = padded_logps(model, groups)
        with steering.at(gate):
            gaps = (padded_logps(model, groups) - reference).view(-1, 2)
            loss = -F.logsigmoid(BETA * (gaps[:, 0] - gaps[:, 1])).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        wait(device)
        taken.append(time.perf_counter() - begin)
    return Measured(sorted(taken[2:])[len(taken[2:]) // 2], peak(device), losses[0])


def trl_step(size: str, device: torch.device, kind: torch.dtype, work: Work) -> Measured:
    """Take DPO steps by TRL's trainer with its defaults, on the same LoRA of all linear layers.

    Raises:
        NotHereError: TRL or PEFT is not installed.
    """
    for package in ("trl", "peft", "datasets"):
        if importlib.util.find_spec(package) is None:
            raise NotHereError(f"{package} is not installed")
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    taken: list[float] = []

    class Clock(TrainerCallback):
        begin = 0.0

        def on_step_begin(self, *arguments: object, **more: object) -> None:
            wait(device)
            self.begin = time.perf_counter()

        def on_step_end(self, *arguments: object, **more: object) -> None:
            wait(device)
            taken.append(time.perf_counter() - self.begin)

    model = random_model(size, device, kind)
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=work.pairs,
            max_steps=STEPS,
            learning_rate=RATE,
            beta=BETA,
            bf16=kind == torch.bfloat16,
            use_cpu=device.type == "cpu",
            max_length=None,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        text = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " a"}])
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = DPOTrainer(
            model, args=settings, train_dataset=text, processing_class=tokenizer(), peft_config=lora
        )
        trainer.train_dataset = Dataset.from_list(
            [
                {"prompt_ids": prompt, "chosen_ids": responses[0], "rejected_ids": responses[1]}
                for prompt, responses in groups_of(work.lengths, model.config.vocab_size)
            ]
        )
        trainer.add_callback(Clock())
        freed(device)
        trainer.train()
        loss = float(trainer.state.log_history[0]["loss"])
    return Measured(sorted(taken[2:])[len(taken[2:]) // 2], peak(device), loss)
