"""The step of TRL's DPOTrainer, taken by its own `train()`."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from datasets.utils import logging as datasets_logging
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

from benchmarks.training.inputs import BETA, RANK, RATE, SCALE, Step
from paretune.models.adapter import Adapter
from paretune.models.loading import locate
from paretune.training.token_tables import PairTable


def quiet() -> None:
    """Keep progress bars and notices of the peers out of the figures."""
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets_logging.disable_progress_bar()


def lora_config(targets: Sequence[str]) -> LoraConfig:
    """Return PEFT's settings of the LoRA that all ways train."""
    chosen = targets[0] if list(targets) == ["all-linear"] else list(targets)
    return LoraConfig(r=RANK, lora_alpha=int(RANK * SCALE), target_modules=chosen, task_type="CAUSAL_LM")


@torch.no_grad()
def set_lora(model: PeftModel, adapter: Adapter, name: str = "default") -> None:
    """Give the adapter ``name`` of ``model`` the values of ``adapter``: PEFT's A is V, its B is U, its scaling the scale."""
    for path, (U, V) in adapter.factors.items():
        layer = model.base_model.model.get_submodule(path)
        layer.lora_A[name].weight.copy_(V)
        layer.lora_B[name].weight.copy_(U)
        assert layer.scaling[name] == adapter.scale


class Clock(TrainerCallback):
    """CPU-seconds of the steps, and how often the first decoder layer runs (its recomputations too)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.layer_runs = 0
        self._begin = 0.0

    def on_step_begin(self, *arguments: object, **more: object) -> None:
        """Note the time."""
        self._begin = time.process_time()

    def on_step_end(self, *arguments: object, **more: object) -> None:
        """Note the time it took."""
        self.seconds.append(time.process_time() - self._begin)

    def watch(self, model: PeftModel) -> None:
        """Count the runs of the first layer; before it, as a recomputation stops early inside it."""

        def count(*arguments: object) -> None:
            self.layer_runs += 1

        model.base_model.model.get_decoder().layers[0].mlp.register_forward_pre_hook(count)


def make_trainer(
    source: str,
    dtype: torch.dtype,
    table: PairTable,
    rows: Sequence[int],
    batch: int,
    targets: Sequence[str],
    checkpointing: bool = False,
    precomputed: bool = False,
    rate: float = RATE,
) -> tuple[DPOTrainer, Clock]:
    """Return a trainer on ``rows`` of a table in their order, ``batch`` pairs a step; its mixed precision follows ``dtype``."""
    folder = locate(source)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    settings = DPOConfig(
        output_dir=str(Path(tempfile.gettempdir(), "paretune-benchmark")),
        per_device_train_batch_size=batch,
        max_steps=len(rows) // batch,
        learning_rate=rate,
        beta=BETA,
        bf16=dtype == torch.bfloat16,
        gradient_checkpointing=checkpointing,
        precompute_ref_log_probs=precomputed,
        train_sampling_strategy="sequential",
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    text = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = DPOTrainer(
        model,
        args=settings,
        train_dataset=text,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora_config(targets),
    )
    # Its own tokenisation would not give the tokens of the other ways.
    tokens = Dataset.from_list(
        [
            {
                "prompt_ids": table.prompts[row],
                "chosen_ids": table.chosen[row],
                "rejected_ids": table.rejected[row],
            }
            for row in rows
        ]
    )
    trainer.train_dataset = trainer._precompute_ref_logps(tokens, "train", batch) if precomputed else tokens
    clock = Clock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    return trainer, clock


def trl_step(
    source: str,
    dtype: torch.dtype,
    table: PairTable,
    start: Adapter,
    targets: Sequence[str],
    checkpointing: bool = False,
    precomputed: bool = False,
) -> Callable[[], Step]:
    """Return a function that takes one step from ``start``, forward to optimiser, without collation of the batch.

    Raises:
        RuntimeError: gradient checkpointing is not what was asked for.
    """
    rows = range(len(table))
    trainer, clock = make_trainer(source, dtype, table, rows, len(table), targets, checkpointing, precomputed)
    clock.watch(trainer.model)

    def step() -> Step:
        set_lora(trainer.model, start)
        clock.layer_runs = 0
        trainer.train()
        expected = 1 + (not precomputed) + checkpointing
        if clock.layer_runs != expected:
            raise RuntimeError(f"a layer ran {clock.layer_runs} times in a step; expected {expected}")
        found = trainer.state.log_history[0]
        return Step(
            clock.seconds[-1],
            found["loss"],
            found["grad_norm"],
            found["rewards/chosen"],
            found["rewards/rejected"],
        )

    return step
