"""On-policy training: a step samples from the policy being trained, scores the answers and steps on their advantages.

One optimiser step sees ``accumulate * batch_pairs`` prompts with K responses each, all decoded together, each prompt at its
own preference. ``batch_pairs`` of the training settings counts prompts here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import ConfigError, TrainingError
from paretune.data.rows import Prompt
from paretune.generation.generate import generate
from paretune.models.adapter import Adapter
from paretune.models.packing import PackedBatch, TokenGroup, pack, packed_token_logps, token_sums
from paretune.models.steering import trained
from paretune.scoring.cache import ScoreCache
from paretune.training.apart import Apart
from paretune.training.conditioning import draw_preferences
from paretune.training.conflicts import conflicts
from paretune.training.learner import Learner, conditioned_adapter, one_adapter
from paretune.training.loop import BatchError, Group, Record, Training, TrainingRun, data_order, fit
from paretune.training.rl.advantages import (
    combined,
    covariances,
    effective_weights,
    grpo_advantages,
    rloo_advantages,
)
from paretune.training.rl.estimators import Estimator, Forward
from paretune.training.rl.goal import Reward
from paretune.training.rl.rewards import rate
from paretune.training.rl.rollouts import NOTHING, Rollout, Sampled, drop_rollouts, rollout_folder
from paretune.training.rl.served import Drawn, Server
from paretune.training.rl.weighing import State, States, floor_facts, missed

WATCHED = 10
"""Forwards over which the mean covariance must be negative before the user is notified."""


def check_forwards(settings: Training) -> None:
    """Raise a ConfigError where forwards are to be bounded by tokens that are not sampled yet."""
    if settings.batch_tokens:
        raise ConfigError(
            f"batch_tokens={settings.batch_tokens}: a run on its own responses knows their lengths only when they are sampled; set "
            "batch_tokens: 0 in the train of this method, where batch_pairs prompts with their responses of at most "
            "sampling.max_new_tokens bound a forward"
        )


def fit_on_policy(run: TrainingRun, goal: Reward, cache: ScoreCache) -> tuple[Adapter, list[Record]]:
    """Train one adapter on its own responses; return it with one record of metrics per optimiser step.

    A run that was killed continues from its checkpoint, reads the responses sampled since then from the folder beside it
    (:func:`paretune.training.rl.rollouts.rollout_folder`), and ends with the same weights. The last weights are kept.

    Args:
        run: Model, settings and checkpoint; ``batch_pairs`` of the settings counts prompts.
        goal: Prompts, all of them short enough, rewards, preference.
        cache: Keeps the scores.

    Raises:
        TrainingError: A loss is not finite.
        EndpointError: The server cannot be used; what was trained so far is saved.
        BatchError: A reward function failed. What was trained so far is saved.
        ConfigError: ``batch_tokens`` is set: how long a response gets is not known before it is sampled.
    """
    check_forwards(run.settings)
    if goal.preference is None and goal.prompting is None:
        if goal.server is not None:
            raise TrainingError(
                f"{run.name}: a server samples from a LoRA, and gates that follow the preference of each row are none; sample here"
            )
        learner: Learner = conditioned_adapter(run, len(goal.objectives), goal.conditioning)
    else:
        learner = one_adapter(run)
    with trained(learner.steering, run.settings.checkpointing):
        history = fit(OnPolicyTask(run, learner, goal, cache), run)
        found = conflicts(history, goal.preference)
        found |= floor_facts(goal.floors.floors, history, str(goal.preference))
        for sentence in missed(found):
            run.notify(f"{run.name}: {sentence}")
        return learner.adapter({**run.info, **found}), history


def grouped(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], each: int
) -> list[TokenGroup]:
    """Return prompts with their responses, of which ``each`` belong to one prompt."""
    return [(ids, responses[g * each : (g + 1) * each]) for g, ids in enumerate(prompts)]


class OnPolicyTask:
    """One adapter on responses of its own (a :class:`paretune.training.loop.Task`)."""

    def __init__(self, run: TrainingRun, learner: Learner, goal: Reward, cache: ScoreCache) -> None:
        self.run, self.learner, self.goal, self.cache = run, learner, goal, cache
        self.folder = rollout_folder(run.checkpoint)
        self.server = None if goal.server is None else Server(goal.server, self.folder, run.notify)
        self.prompts = goal.prompts
        self.share = run.share(divisible=False)
        self.size = run.settings.accumulate * run.settings.batch_pairs
        self.rollouts = math.ceil(run.settings.steps / goal.settings.epochs)
        self.order = data_order(len(self.prompts), self.rollouts * self.size, run.settings.seed)
        self.estimator = Estimator(goal)
        self.states = States(self.folder, len(goal.objectives))
        one = goal.preference is not None and max(goal.preference.weights) == 1
        self.apart = goal.conditioning.rule.apart and not one
        self._sampled: tuple[int, Sampled] | None = None
        self._watched: dict[str, deque[float]] = {o: deque(maxlen=WATCHED) for o in goal.objectives}

    def groups(self) -> list[Group]:
        """Return all trainable parameters."""
        return self.learner.groups()

    def validate(self) -> None:
        """Return nothing: no responses are sampled for validation, so the last weights are kept."""
        return

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor | Apart, Record]]:
        """Sample the responses of this step unless an epoch before did, and yield the loss on those of forward ``micro``."""
        number, epoch = divmod(step, self.goal.settings.epochs)
        sampled = self._of(number, epoch, step)
        part = self._part(micro)
        packed = self._pack(sampled.groups[part])
        with self._at(sampled.weights[part], packed):
            logps = self._logps(packed)
            old = sampled.old[micro] if sampled.old else logps.detach()
            drawn = sampled.drawn[micro] if sampled.drawn else None
            forward = Forward(logps, old, sampled.reference[micro], packed, drawn)
            advantages = self.estimator.advantages(sampled, part, forward)
            apart = self.estimator.apart(sampled, part, forward) if self.apart else None
            loss = self.estimator.loss(forward, advantages) if apart is None else apart.value
            if not bool(loss.isfinite()):
                rows = self._rows(number)[part]
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {self._where(rows)}; lower train.learning_rate"
                )
            record = self._record(sampled, part, advantages, forward, epoch)
            yield loss if apart is None else apart, record | self._served_metrics(number, forward)

    # Sampling

    def _of(self, number: int, epoch: int, step: int) -> Sampled:
        """Return the responses of rollout ``number``, which are sampled at its first epoch."""
        if self._sampled is None or self._sampled[0] != number:
            self._sampled = number, self._draw(number, epoch, step)
        return self._sampled[1]

    def _draw(self, number: int, epoch: int, step: int) -> Sampled:
        """Sample rollout ``number`` or read it again, score it, and let the base model read it."""
        goal, K = self.goal, self.goal.settings.responses
        rows = self._rows(number)
        prompts = [self.prompts[row] for row in rows]
        weights = self._weights(number)
        asked = [
            self.run.lm.encode_prompt(goal.asked(prompt, w))
            for prompt, w in zip(prompts, weights, strict=True)
        ]

        team, file = self.share.team, self.folder / f"{number:06d}.safetensors"
        rollout = team.once(lambda: Rollout.load(file, self.run.key) if file.is_file() else None)
        remembers = goal.settings.remembers
        if epoch and (rollout is None or (remembers and not len(rollout.old_logps))):
            raise TrainingError(
                f"{file}: the responses of step {step + 1} are gone, and the policy that drew them too; delete {self.folder} and "
                "the checkpoint beside it to start this run again"
            )
        kept = rollout
        if rollout is None:
            rollout = self._rollout(number, asked, weights) if self.server is None else self._served(number)
        if not epoch and remembers and not len(rollout.old_logps):
            rollout = replace(rollout, old_logps=self._found(asked, weights, rollout.responses))
        if team.first and rollout is not kept:
            rollout.save(file, self.run.key)
        if team.first and not epoch:
            every = self.run.settings.checkpoint_every
            drop_rollouts(self.folder, step // every * every // goal.settings.epochs)
        scores = team.once(lambda: self._scores(prompts, rollout, step))
        shape, device = (self.size, K, -1), self.run.lm.device
        raw = torch.from_numpy(scores).float().view(shape).to(device)
        rewards = torch.from_numpy(goal.scale.apply(scores)).float().view(shape).to(device)
        plain = asked if goal.prompting is None else [self.run.lm.encode_prompt(prompt) for prompt in prompts]
        parts = team.part(self._parts(grouped(plain, rollout.responses, K)))
        with self.learner.steering.off():
            logps = [self._logps(self._pack(part)).detach().cpu() for part in parts]
        reference = [values.to(device) for values in team.merge(logps)]
        counts = [len(logps) for logps in reference]
        old, drawn = (
            list(values.to(device).split(counts)) if len(values) else []
            for values in (rollout.old_logps, rollout.drawn_logps)
        )
        sampled = Sampled(
            weights.to(device),
            weights.to(device),
            grouped(asked, rollout.responses, K),
            raw,
            rewards,
            reference,
            old,
            drawn,
            raw.new_zeros(self.size, K),
            raw.new_zeros(self.size, 1),
            sum(rollout.truncated) / len(rollout.truncated),
        )
        return self._combined(number, sampled, rollout.logps.to(device).view(self.size, K))

    def _scores(self, prompts: Sequence[Prompt], rollout: Rollout, step: int) -> np.ndarray:
        """Return the raw scores ``[N, M]`` of sampled responses."""
        K, settings = self.goal.settings.responses, self.goal.settings
        texts = [self.run.lm.decode(response) for response in rollout.responses]
        owners = [prompt for prompt in prompts for _ in range(K)]
        try:
            return rate(self.goal.scorers, owners, texts, rollout.truncated, self.cache, settings.time_limit)
        except BatchError as error:
            raise BatchError(f"{self.run.name}, step {step + 1}: {error}") from error

    def _rollout(self, number: int, asked: Sequence[Sequence[int]], weights: Tensor) -> Rollout:
        """Sample the responses of all prompts: each process decodes a part of the rows, whose texts are theirs alone."""
        K, team = self.goal.settings.responses, self.share.team
        rows = team.part(range(self.size * K))
        sampling = replace(self.goal.sampling, temperature=1.0, top_p=1.0)
        with self.learner.decoding(weights[[row // K for row in rows]]) as gates:
            drawn = generate(
                self.run.lm,
                [asked[row // K] for row in rows],
                sampling,
                [self._seed(number) + row for row in rows],
                self.learner.steering,
                gates,
            )
        return Rollout.of(team.merge(drawn), NOTHING)

    def _served(self, number: int) -> Rollout:
        """Let the server sample the responses of this rollout, and of those behind it that are sampled from the same load."""
        goal, team, K = self.goal, self.share.team, self.goal.settings.responses
        if self.server is None:  # the caller has asked
            raise TrainingError("no server samples this run")
        every = self.server.endpoint.load_every
        numbers = range(number, min((number // every + 1) * every, self.rollouts))
        read = [
            [goal.asked(self.prompts[row], w) for row, w in zip(self._rows(n), self._weights(n), strict=True)]
            for n in numbers
        ]
        adapter = self.learner.adapter(self.run.info)
        prompts = [prompt for part in read for prompt in part for _ in range(K)]
        seeds = [self._seed(n) + row for n in numbers for row in range(self.size * K)]
        server = self.server
        drawn = team.once(lambda: server.draw(self.run.lm, adapter, prompts, goal.sampling, seeds))
        made = []
        for place, n in enumerate(numbers):
            part = drawn[place * self.size * K : (place + 1) * self.size * K]
            asked = [self.run.lm.encode_prompt(prompt) for prompt in read[place]]
            made.append(self._of_server(n, asked, part, alone=len(numbers) == 1))
            if team.first and n > number:
                made[-1].save(self.folder / f"{n:06d}.safetensors", self.run.key)
        return made[0]

    def _of_server(
        self, number: int, asked: Sequence[Sequence[int]], drawn: Sequence[Drawn], alone: bool
    ) -> Rollout:
        """Return what a server drew from the parameters of now, with the log-probabilities where it was drawn."""
        responses = tuple(response.tokens for response in drawn)
        lengths = [len(response) for response in responses]
        stated = all(len(response.logps) == len(response.tokens) for response in drawn)
        if stated:
            logps = torch.tensor([logp for response in drawn for logp in response.logps])
        else:
            logps = self._found(asked, self._weights(number), responses)
        sums = torch.stack([part.sum() for part in logps.split(lengths)])
        # Drawn now and not stated: the forward of the step itself finds the same.
        kept = logps if stated or not alone else NOTHING
        return Rollout(responses, tuple(response.truncated for response in drawn), sums, NOTHING, kept)

    def _found(
        self, asked: Sequence[Sequence[int]], weights: Tensor, responses: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the log-probabilities ``[S]`` of response tokens under the parameters of now, as a training forward finds them."""
        parts, team = self._parts(grouped(asked, responses, self.goal.settings.responses)), self.share.team
        logps = []
        for micro in team.part(range(len(parts))):
            packed = self._pack(parts[micro])
            with self._at(weights[self._part(micro)], packed):
                logps.append(self._logps(packed).detach().cpu())
        return torch.cat(team.merge(logps))

    def _seed(self, number: int) -> int:
        """Return the seed of the first response of a rollout."""
        return (self.run.settings.seed * 1_000_003 + number * self.size) * self.goal.settings.responses

    def _combined(self, number: int, sampled: Sampled, logps: Tensor) -> Sampled:
        """Fill in what each objective counts, the one reward of each response, and the weight of the penalty beside it."""
        goal, c = self.goal, self.goal.conditioning
        weights, beta = sampled.weights, goal.settings.beta
        strength = beta * weights.sum(1, keepdim=True)
        if c.aggregation != "linear":
            penalised = sampled.rewards - beta * self._log_ratios(sampled, logps)[..., None]
            means = penalised.mean((0, 1)).expand_as(weights)
            ideal = torch.tensor(goal.ideal, device=weights.device)
            worst = torch.tensor(goal.worst, device=weights.device) if goal.worst else None
            weights = effective_weights(means, weights, c.aggregation, ideal, c.shape, worst)
            strength = beta * weights.sum(1, keepdim=True)
        state = self.states.before(number) if goal.adaptive else None
        if state is not None:  # the penalty stays that of the preference
            weights = state.weights(weights)
        made = replace(
            sampled,
            counted=weights,
            combined=combined(sampled.rewards, weights, goal.settings.aggregation),
            strength=strength,
        )
        if state is not None:
            self._adapt(number, state, made, self._log_ratios(sampled, logps))
        return made

    def _log_ratios(self, sampled: Sampled, logps: Tensor) -> Tensor:
        """Return the log-ratios ``[G, K]`` of whole responses to the base model, from ``logps`` of the same shape."""
        parts = zip(self._parts(sampled.groups), sampled.reference, strict=True)
        sums = torch.cat([token_sums(values, self._pack(part)) for part, values in parts])
        return logps - sums.view_as(logps)

    def _adapt(self, number: int, state: State, sampled: Sampled, log_ratios: Tensor) -> None:
        """Note what the weights are before the next rollout."""
        goal, settings = self.goal, self.goal.settings
        if settings.aggregation == "guarded":
            if settings.estimator == "grpo":
                advantages = grpo_advantages(sampled.rewards, sampled.counted)
            else:
                advantages = rloo_advantages(sampled.combined, log_ratios, sampled.strength)
            state = state.guarded(goal.guard, sampled.rewards, advantages)
        if goal.floors.floors:
            raw = np.array([[goal.floors.floors.get(name, np.nan) for name in goal.objectives]])
            floors = torch.from_numpy(goal.scale.apply(raw)[0]).float()
            state = state.held(goal.floors.rate, floors, sampled.rewards)
        self.states.put(number + 1, state, self.share.team.first)

    def _weights(self, number: int) -> Tensor:
        """Return the preferences ``[G, M]`` of rollout ``number``: a function of seed and number."""
        goal, M = self.goal, len(self.goal.objectives)
        if goal.preference is not None:
            return torch.tensor(goal.preference.weights, dtype=torch.float32).expand(self.size, M)
        count = 1 if goal.conditioning.per == "batch" else self.size
        drawn = draw_preferences(goal.conditioning, count, M, (self.run.settings.seed, number))
        return torch.tensor(drawn, dtype=torch.float32).expand(self.size, M)

    def _rows(self, number: int) -> list[int]:
        return self.order[number * self.size : (number + 1) * self.size]

    def _where(self, rows: Sequence[int]) -> str:
        return "; ".join(f"prompt {self.prompts[row][-1].content[:40]!r}" for row in rows)

    # One forward

    def _part(self, micro: int) -> slice:
        return slice(micro * self.run.settings.batch_pairs, (micro + 1) * self.run.settings.batch_pairs)

    def _parts(self, groups: list[TokenGroup]) -> list[list[TokenGroup]]:
        return [groups[self._part(micro)] for micro in range(self.run.settings.accumulate)]

    def _pack(self, groups: Sequence[TokenGroup]) -> PackedBatch:
        return pack(groups, self.run.lm.device)

    def _logps(self, packed: PackedBatch) -> Tensor:
        """Return the log-probabilities of response tokens ``[S]``, always with gradients on.

        A forward of few tokens without them rounds otherwise in an adapted layer, and the ratios would start at that noise.
        """
        with torch.enable_grad():
            return packed_token_logps(self.run.lm.model, packed)

    @contextmanager
    def _at(self, weights: Tensor, packed: PackedBatch) -> Iterator[None]:
        with self.learner.steering.at(self.learner.gates(weights), index=packed.groups):
            yield

    def _served_metrics(self, number: int, forward: Forward) -> Record:
        """Return the metrics of what a server drew: importance weights, and nats a token between it and here."""
        if forward.drawn is None or self.server is None:
            return {}
        gap = float((forward.old - forward.drawn).abs().mean())
        if number % self.server.endpoint.load_every == 0:
            self.server.check(gap)
        return {**self.estimator.importances(forward), "server_gap": gap}

    def _record(
        self, sampled: Sampled, part: slice, advantages: Tensor, forward: Forward, epoch: int
    ) -> Record:
        """Return the metrics of one forward; the KL is of whole responses, in nats."""
        weights, raw, packed = sampled.weights[part], sampled.raw[part], forward.packed
        logps = forward.logps.detach()
        kl = forward.sums(logps - forward.reference).view(advantages.shape).mean(1)
        record: Record = {
            "tokens": packed.input_ids.numel(),
            "sampled_tokens": 0 if epoch else int(packed.lengths.sum()),
            "kl": float(kl.mean()),
            "response_tokens": float(packed.lengths.float().mean()),
            "cut": sampled.cut,
        }
        if self.goal.settings.estimator == "dpo":
            record["ties"] = float((advantages.abs().sum(1) == 0).float().mean())
        else:
            moved = logps - forward.old
            if self.goal.settings.estimator == "rloo":
                moved = forward.sums(moved)
            beyond = (moved.exp() - 1).abs() > self.goal.settings.clip
            record["clipped"] = float(beyond.float().mean())
        covariance = covariances(sampled.rewards[part], advantages)
        for i, name in enumerate(self.goal.objectives):
            weight = weights[:, i]
            record[f"reward/{name}"] = float(raw[..., i].mean())
            record[f"spread/{name}"] = float(raw[..., i].std())
            record[f"covariance/{name}"] = float(covariance[:, i].mean())
            record[f"weight/{name}"] = float(weight.mean())
            if self.goal.adaptive:
                record[f"counted/{name}"] = float(sampled.counted[part, i].mean())
            if name in self.goal.floors.floors:
                record[f"multiplier/{name}"] = float((sampled.counted - sampled.weights)[part, i].mean())
            record[f"kl/{name}"] = float((weight * kl).sum() / weight.sum().clamp(min=1e-9))
            if not epoch and float(weight.sum()) > 0:
                self._watch(name, float((weight * covariance[:, i]).sum() / weight.sum()))
        return record

    def _watch(self, name: str, covariance: float) -> None:
        """Notify the user once that an objective falls where it has weight, by its covariance with the advantage."""
        seen = self._watched.get(name)
        if seen is None:
            return
        seen.append(covariance)
        if len(seen) == WATCHED and sum(seen) < 0:
            del self._watched[name]
            self.run.notify(
                f"{self.run.name}: the reward of {name!r} and the advantage have a negative covariance "
                f"({sum(seen) / WATCHED:.2g} over {WATCHED} forwards): what is trained for lowers it. Its weight is too small "
                "against an objective it conflicts with, or the penalty outweighs it"
            )
