"""Responses to train on that a server samples, from a LoRA of the parameters of the moment.

The server draws y from mu, which differs from the policy pi_theta whose gradient is wanted: its parameters may be older
(``endpoint.load_every`` above 1), and its kernels and number format are others. The gradient of ``E_pi[A log pi]`` is that of
``E_mu[(pi / mu) A log pi]``, so every response counts with its importance weight, cut at ``ratio_cap`` (truncated importance
sampling; with the policy before the step in place of pi, as in decoupled PPO, arXiv 2110.00641)::

    weight = min(pi_old(y|x) / mu(y|x), cap)

``pi_old`` is the policy before the step, as a forward pass here finds it. ``mu`` is what the server states of the tokens it drew;
where it states nothing, a forward pass here under the parameters that were loaded. Without a lag the weight is then 1, and the
gradient is that of the same responses sampled here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from paretune.core.errors import EndpointError
from paretune.core.sampling import Sampling
from paretune.core.swap import discard
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Answer, Endpoint, Question
from paretune.generation.resumable import remove_parts
from paretune.generation.sample import ask
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.training.served_loras import written

WIDE_GAP = 0.2
"""Mean distance, in nats a token, of the server's log-probabilities from those here under the same parameters, that is said.
Another number format moves a token by hundredths."""


@dataclass(frozen=True)
class Drawn:
    """A response that a server drew.

    Attributes:
        tokens: Token ids, end of turn included unless it was cut.
        truncated: Whether the token limit cut it.
        logps: Log-probability of each token where it was drawn, in nats; empty where the server does not state it.
    """

    tokens: tuple[int, ...]
    truncated: bool
    logps: tuple[float, ...]


@dataclass(frozen=True)
class Server:
    """The server that samples for one run of training.

    Attributes:
        endpoint: The server.
        folder: Folder of the run of training, which it must see under the same path.
        say: Tells the user something.
        said: What was told, which is not told again.
    """

    endpoint: Endpoint
    folder: Path
    say: Callable[[str], None]
    said: set[str] = field(default_factory=set)

    def draw(
        self,
        lm: LanguageModel,
        adapter: Adapter,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Drawn]:
        """Let the server load an adapter and sample one response per prompt from it, at temperature 1 over the whole vocabulary.

        A killed run asks only for what has not arrived.

        Args:
            lm: The base model here, whose tokens the server must share.
            adapter: The parameters of the moment.
            prompts: N conversations as the policy reads them.
            sampling: Length of responses.
            seeds: One per prompt.

        Raises:
            EndpointError: The server cannot be used, cannot load LoRAs, or reads a prompt as other tokens than the model here.
        """
        lora, parts = written(self.folder / "lora", lm, self.endpoint, adapter), self.folder / "answers"
        questions = [Question(lora.name, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        whole = replace(sampling, temperature=1.0, top_p=1.0)
        answers = ask(self.endpoint, questions, whole, parts, "sampling", lora, tokens=True)
        drawn = [self._taken(lm, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        remove_parts(parts)
        discard(self.folder / "lora")  # the next step has another
        return drawn

    def _taken(self, lm: LanguageModel, prompt: Prompt, answer: Answer) -> Drawn:
        """Return an answer as tokens of the model here."""
        url = self.endpoint.url
        if answer.read is not None and answer.read != (here := len(lm.encode_prompt(prompt))):
            raise EndpointError(
                f"{url} reads a prompt as {answer.read} tokens, and the model here as {here}: {prompt[-1].content[:60]!r}. Serve "
                "the same model with the same chat template, or take the method out of endpoint.stages"
            )
        if answer.ids:
            known = len(answer.logps) == len(answer.ids)
            return Drawn(answer.ids, answer.truncated, answer.logps if known else ())
        self._say_once(
            f"{url} does not say which tokens it drew (vLLM does from 0.10.2 on), so they are read off the text; their probability "
            "is that of a forward pass here"
        )
        tokens = lm.encode_response(answer.text, answer.truncated) or [lm.turn_end]
        return Drawn(tuple(tokens), answer.truncated, ())

    def check(self, gap: float) -> None:
        """Tell the user once where log-probabilities of the server are far from those here under the same parameters."""
        if gap > WIDE_GAP:
            self._say_once(
                f"under the same parameters, log-probabilities of {self.endpoint.url} differ from those here by {gap:.2g} nats a "
                "token; see that it serves the same base model, in a like number format, with the same chat template"
            )

    def _say_once(self, message: str) -> None:
        kind = message.split(",")[0].split(" (")[0]
        if kind not in self.said:
            self.said.add(kind)
            self.say(message)
