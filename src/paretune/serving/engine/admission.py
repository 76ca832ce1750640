"""A job becomes rows: it is checked and tokenised, and gets gates over the adapters of all policies together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, ModelError, PreferenceError, suggest
from paretune.data.rows import Message
from paretune.generation.batch import Slot
from paretune.generation.structure import Form, form_of
from paretune.models.adapter import Adapter
from paretune.models.call_reader import CallReader
from paretune.models.language_model import LanguageModel
from paretune.policies.mixed import candidate_seed
from paretune.policies.policy import Policy, plain
from paretune.serving.config import EngineLimits
from paretune.serving.events import Job, PromptTooLong, Unsupported

SEEDS = 2**53
"""Seeds are below this number, as every JSON reader keeps such numbers exact."""


@dataclass(frozen=True, eq=False)
class Intake:
    """The served policies, their adapters side by side, and the limits on jobs.

    Attributes:
        policies: Served policies, name -> policy, all of one base model.
        lm: The base model.
        adapters: Distinct adapters of all policies, to be attached side by side.
        columns: name -> int64 ``[R_p]``, the columns of the policy's adapters in the common stack.
        context: Number of positions of the model.
        max_prompt_tokens: Largest number of tokens of one prompt.
        max_cached_tokens: Largest number of rows times positions of one job.
    """

    policies: Mapping[str, Policy]
    lm: LanguageModel
    adapters: tuple[Adapter, ...]
    columns: Mapping[str, Tensor]
    context: int
    max_prompt_tokens: int
    max_cached_tokens: int

    @classmethod
    def of(cls, policies: Mapping[str, Policy], limits: EngineLimits) -> Intake:
        """Collect the adapters of ``policies``; an adapter that several of them use is kept once.

        Raises:
            ModelError: There is no policy, base models differ, or an adapter holds numbers that are not finite.
            ConfigError: A policy needs more rows per answer than ``limits.max_rows``.
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
                        # In a shared forward a gate of 0 does not hide them: 0 * inf is not a number.
                        raise ModelError(
                            f"{name}: its adapter holds numbers that are not finite; train it again"
                        )
                    starts[key] = sum(other.rank for other in adapters)
                    adapters.append(adapter)
                parts.append(torch.arange(adapter.rank) + starts[key])
            columns[name] = torch.cat(parts)
        context = lm.context or limits.max_cached_tokens
        longest = context if limits.max_prompt_tokens is None else limits.max_prompt_tokens
        intake = cls(dict(policies), lm, tuple(adapters), columns, context, longest, limits.max_cached_tokens)
        for name in policies:
            if (needed := intake.most_rows(name)) > limits.max_rows:
                raise ConfigError(
                    f"{name} takes up to {needed} rows for one answer, but max_rows is {limits.max_rows}; raise max_rows"
                )
        return intake

    def most_rows(self, name: str) -> int:
        """Return the largest number of rows that one answer of a policy takes in a forward."""
        return self.policies[name].copies

    def rows(self, job: Job) -> list[Slot]:
        """Return the rows of a job: one, or one per candidate that its policy samples.

        Raises:
            PreferenceError: The policy or an objective is unknown, or the policy cannot serve the preference.
            PromptTooLong: The prompt exceeds a limit.
            ConfigError: The seed is out of range, or the form cannot be followed.
            DataError: The chat template refuses the prompt.
            Unsupported: The chat template has no tools.
        """
        if job.policy not in self.policies:
            raise PreferenceError(f"no policy is named {job.policy!r}; {suggest(job.policy, self.policies)}")
        if not 0 <= job.seed < SEEDS:
            raise ConfigError(f"seed {job.seed}; expected a whole number from 0 to {SEEDS - 1}")
        policy = self.policies[job.policy]
        gates = policy.gates([job.preference])
        if gates is not None and not bool(gates.isfinite().all()):
            raise ModelError(f"{job.policy}: gates at {job.preference} are not finite; train it again")
        mixture = policy.mixture([job.preference])
        prompts = self._prompts(policy, job)
        copies = prompts if len(prompts) > 1 else ()
        rows = [
            Slot(
                prompts[0],
                job.sampling,
                candidate_seed(job.seed, number),
                mixture=mixture,
                prompts=copies,
                form=self._form(job),
                alternatives=job.logprobs,
            )
            for number in range(policy.candidates)
        ]
        if gates is not None:
            used = gates if mixture is None else gates[0, rows[0].kinds]
            common = torch.zeros(len(used), sum(adapter.rank for adapter in self.adapters))
            common.index_add_(1, self.columns[job.policy], used)
            for row in rows:
                row.gates = common
        return rows

    def call_reader(self, job: Job) -> tuple[CallReader | None, frozenset[int]]:
        """Return what reads the calls out of an answer, if there may be some, and the special tokens that it must see."""
        if job.tools is None:
            return None, frozenset()
        tokenizer, form = self.lm.tokenizer, self.lm.call_form
        special = {t.content: number for number, t in tokenizer.added_tokens_decoder.items() if t.special}
        reader = CallReader(tokenizer, form.response_template, job.tools.allowed, job.tools.functions)
        return reader, form.markers(special)

    def _form(self, job: Job) -> Form | None:
        """Return the form that the answer must have, if any."""
        tools = job.tools
        forced = (
            tools if tools is not None and (tools.must or tools.strict or job.schema is not None) else None
        )
        if forced is None:
            return None if job.schema is None else form_of(job.schema, self.lm)
        return form_of(job.schema, self.lm, forced)

    def _prompts(self, policy: Policy, job: Job) -> list[list[int]]:
        """Return the token ids of the prompt, or of each copy's where they differ; a last answer in it is gone on from."""
        if job.tools is not None:
            try:
                _ = self.lm.call_form
            except ModelError as error:
                raise Unsupported(str(error), "tools") from error
        if isinstance(job.prompt, str):
            copies = policy.asked_of_copies((Message("user", job.prompt),), job.preference)
            before, end = policy.around(job.preference)
            texts = [plain(copy[:-1]) + copy[-1].content for copy in copies]
            prompts = [policy.lm.encode_text(text) for text in texts or [before + job.prompt + end]]
        else:
            begun = job.prompt[-1].content if job.prompt[-1].role == "assistant" else ""
            prompt = job.prompt[:-1] if begun else job.prompt
            copies = policy.asked_of_copies(prompt, job.preference)
            conversations = copies or policy.asked([prompt], [job.preference])
            lead = policy.lm.encode_response(begun, truncated=True) if begun else []
            functions = () if job.tools is None else job.tools.functions
            prompts = [[*policy.lm.encode_prompt(turns, tools=functions), *lead] for turns in conversations]
        prompts = [prompt or [self.lm.turn_end] for prompt in prompts]  # the model needs at least one token
        longest = max(map(len, prompts))
        if longest > self.max_prompt_tokens:
            raise PromptTooLong(
                f"the prompt has {longest} tokens, but at most {self.max_prompt_tokens} are accepted; shorten it"
            )
        answer = job.sampling.max_new_tokens
        most = min(self.context, self.max_cached_tokens // self.most_rows(job.policy))
        if longest + answer > most:
            raise PromptTooLong(
                f"the prompt has {longest} tokens and the answer up to {answer}, together more than {most}; "
                "shorten the prompt, or ask for fewer tokens"
            )
        return prompts
