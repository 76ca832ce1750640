"""From a job to the rows it is made of: checked, tokenised, and with gates for the adapters of all policies together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, ModelError, PreferenceError, suggest
from paretune.generation.batch import Slot
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.policies.mixed import candidate_seed
from paretune.policies.policy import Policy
from paretune.serving.engine.events import Job, PromptTooLong

SEEDS = 2**53
"""Seeds lie below it: every JSON reader keeps such numbers exact."""


@dataclass(frozen=True, eq=False)
class Intake:
    """What is served, and how much of it.

    Attributes:
        policies: name -> policy, all of one base model.
        lm: that model.
        adapters: the distinct adapters of all policies, to be attached side by side.
        columns: name -> int64 ``[R_p]``, where the columns of the policy's own stack lie in the common one.
        context: positions of the model.
        max_prompt_tokens: of one prompt.
        max_cached_tokens: rows times positions of one job.
    """

    policies: Mapping[str, Policy]
    lm: LanguageModel
    adapters: tuple[Adapter, ...]
    columns: Mapping[str, Tensor]
    context: int
    max_prompt_tokens: int
    max_cached_tokens: int

    @classmethod
    def of(
        cls, policies: Mapping[str, Policy], max_prompt_tokens: int | None, max_cached_tokens: int
    ) -> Intake:
        """Work out what ``policies`` have in common; an adapter that several use is kept once.

        Raises:
            ModelError: no policy, policies of different models, or an adapter that is not finite.
        """
        if not policies:
            raise ModelError("no policy to serve; give at least one")
        lm = next(iter(policies.values())).lm
        starts: dict[str, int] = {}
        adapters: list[Adapter] = []
        columns: dict[str, Tensor] = {}
        for name, policy in policies.items():
            if policy.lm.fingerprint != lm.fingerprint:
                raise ModelError(
                    f"{name}: its base model {policy.lm.name} is not {lm.name}; serve policies of one base model together"
                )
            parts = [torch.empty(0, dtype=torch.long)]
            for adapter in policy.adapters:
                key = adapter.fingerprint
                if key not in starts:
                    if not all(bool(x.isfinite().all()) for pair in adapter.factors.values() for x in pair):
                        # In a shared forward a gate of 0 would not hide them.
                        raise ModelError(
                            f"{name}: its adapter holds numbers that are not finite; train it again"
                        )
                    starts[key] = sum(other.rank for other in adapters)
                    adapters.append(adapter)
                parts.append(torch.arange(adapter.rank) + starts[key])
            columns[name] = torch.cat(parts)
        known = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
        context = int(known) if known else max_cached_tokens
        return cls(
            dict(policies),
            lm,
            tuple(adapters),
            columns,
            context,
            context if max_prompt_tokens is None else max_prompt_tokens,
            max_cached_tokens,
        )

    def most_rows(self, name: str) -> int:
        """Return how many rows of a forward an answer of a policy takes at most."""
        return self.policies[name].copies

    def rows(self, job: Job) -> list[Slot]:
        """Return the rows of a job: one, or as many as its policy draws candidates.

        Raises:
            PreferenceError: an unknown policy or objective, or a preference that the policy cannot serve.
            PromptTooLong: see there.
            ConfigError: a seed out of range.
            DataError: the chat template refuses the prompt.
        """
        if job.policy not in self.policies:
            raise PreferenceError(f"no policy is called {job.policy!r}; {suggest(job.policy, self.policies)}")
        if not 0 <= job.seed < SEEDS:
            raise ConfigError(f"seed {job.seed}; expected a whole number from 0 to {SEEDS - 1}")
        policy = self.policies[job.policy]
        gates = policy.gates([job.preference])
        if gates is not None and not bool(gates.isfinite().all()):
            raise ModelError(f"{job.policy}: gates at {job.preference} are not finite; train it again")
        mixture = policy.mixture([job.preference])
        prompt = self._prompt(policy, job)
        rows = [
            Slot(prompt, job.sampling, candidate_seed(job.seed, number), mixture=mixture)
            for number in range(policy.candidates)
        ]
        if gates is not None:
            used = gates if mixture is None else gates[0, rows[0].kinds]
            common = torch.zeros(len(used), sum(adapter.rank for adapter in self.adapters))
            common.index_add_(1, self.columns[job.policy], used)
            for row in rows:
                row.gates = common
        return rows

    def _prompt(self, policy: Policy, job: Job) -> list[int]:
        if isinstance(job.prompt, str):
            prompt = policy.lm.encode_text(job.prompt + policy.prompt_end(job.preference))
        else:
            (asked,) = policy.asked([job.prompt], [job.preference])
            prompt = policy.lm.encode_prompt(asked)
        prompt = prompt or [self.lm.turn_end]  # the model needs a token to begin with
        if len(prompt) > self.max_prompt_tokens:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, and at most {self.max_prompt_tokens} are taken; shorten it"
            )
        answer = job.sampling.max_new_tokens
        most = min(self.context, self.max_cached_tokens // self.most_rows(job.policy))
        if len(prompt) + answer > most:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens and the answer up to {answer}, together more than {most}; "
                "shorten the prompt, or ask for fewer tokens"
            )
        return prompt
