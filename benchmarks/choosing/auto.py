"""``auto``: how often a head is called better than a constant preference where it is not and where it is, and what it costs.

Prints, for simulated votes on prompts of four topics, the share of simulations in which the head is called better, by the effect of
the topic on the log-odds of weights; then the time to choose a preference for a message, with the default encoder.
"""

import argparse
import time

import numpy as np

from paretune.choosing.auto import Lessons, Votes, held_out, softmax
from paretune.scoring import encoder as encode
from paretune.scoring.auto_head import embedded

TOPICS = 4


def world(seed, prompts, effect, objectives=2):
    """Return one vote on each of some prompts; the weight of one objective is turned up in each topic."""
    random = np.random.default_rng(seed)
    topic = random.integers(TOPICS, size=prompts)
    embeddings = random.normal(size=(TOPICS, 24))[topic] + random.normal(size=(prompts, 24))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    turned = effect * np.eye(objectives)[np.arange(TOPICS) % objectives]
    weights = softmax(np.linspace(0, 0.5, objectives) + turned[topic])
    differences = random.normal(size=(prompts, objectives))
    chance = 1 / (1 + np.exp(-(weights * differences).sum(1) / 0.3))
    winners = np.where(random.random(prompts) < chance, 1.0, -1.0)
    winners[random.random(prompts) < 0.1] = 0.0
    names = tuple("abcdefgh"[:objectives])
    return Lessons(embeddings, np.arange(prompts), Votes(differences, winners), names)


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--prompts", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--effects", type=float, nargs="+", default=[0.0, 2.0, 4.0])
    arguments = parser.parse_args()
    for prompts in arguments.prompts:
        for effect in arguments.effects:
            shown = [held_out(world(seed, prompts, effect)) for seed in range(arguments.simulations)]
            better = np.mean([one.better for one in shown])
            gain = np.mean([one.gain for one in shown])
            print(
                f"{prompts} prompts, effect {effect:g}: better in {better:.1%}, mean gain {gain:+.3f} nats",
                flush=True,
            )
    frozen = encode.load_encoder(encode.locate(encode.DEFAULT_ENCODER), "cpu")
    for words in (10, 100, 1000):
        texts = [f"{n} " + "what can I do with ripe bananas " * (words // 7 + 1) for n in range(20)]
        times = []
        for text in texts:
            began = time.perf_counter()
            embedded(frozen, [text])
            times.append(1000 * (time.perf_counter() - began))
        print(f"a message of {words} words: {np.median(times):.1f} ms")


if __name__ == "__main__":
    main()
