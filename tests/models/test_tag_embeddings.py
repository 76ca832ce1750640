"""Level tags as tokens of their own: what the model's own tokens keep, what is learned, saved, resumed and refused."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import DataError, ModelError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.generate import attached, generate
from paretune.methods.base import Inputs
from paretune.methods.ric import method as ric
from paretune.methods.ric.method import RiCConfig
from paretune.models.adapter import Adapter, stack, to_peft
from paretune.models.language_model import LanguageModel
from paretune.models.packing import pack, packed_logps, prepare
from paretune.models.steering import Steering
from paretune.policies.export import export
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import attach
from support.adapters import TRAINING, adapters_equal
from support.kills import killed
from support.random_models import ALL, checkpointed, ids, logits, random_adapter
from support.scorers import SCORERS
from support.world import make_dataset

OBJECTIVES = ("short", "good")
ENDS = {name: (value,) * 2 for name, value in (("low", -1.0), ("high", 1.0), ("least", -1.0), ("most", 1.0))}
PROMPTING = Prompting(OBJECTIVES, (0.0,) * 2, (1.0,) * 2, **ENDS, form="tokens")
V = 128  # vocabulary of the tiny Llama


def with_tokens(model, rows: Sequence[int] = (5, 9, 11), **options) -> Adapter:
    """Return a random adapter with tokens of its own, which are copies of the model's ``rows``."""
    own = model.get_input_embeddings().weight.detach()[list(rows)].float()
    return replace(random_adapter(model, **options), tokens=own)


# The embedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_prompts_without_tags_are_read_as_ever(tiny_llama, tied: bool, dtype: torch.dtype) -> None:
    model = tiny_llama(tie_word_embeddings=tied).to(dtype)
    adapter = with_tokens(model)
    base, head, embedding = logits(model, ids()), model.get_output_embeddings(), model.get_input_embeddings()
    weight, rows = head.weight, embedding(ids())
    plain = Steering.attach_adapter(model, replace(adapter, tokens=None))
    with plain.at(adapter.gates()):
        without = logits(model, ids())
    plain.detach()
    steering = Steering.attach_adapter(model, replace(adapter, tokens=torch.randn(3, 64)), trainable=True)
    assert model.get_output_embeddings() is head and head.weight is weight
    assert model.get_input_embeddings().weight is embedding.weight
    assert model.dtype == dtype and all(p.dtype == torch.float32 for p in steering.parameters())
    assert torch.equal(model.get_input_embeddings()(ids()), rows)
    with steering.at(adapter.gates()):
        assert torch.equal(logits(model, ids()), without)
    with steering.off():
        assert torch.equal(logits(model, ids()), base)
    steering.detach()
    assert model.get_input_embeddings() is embedding and torch.equal(logits(model, ids()), base)
    assert embedding.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_with_the_row_of_another_is_that_other(tiny_llama, dtype: torch.dtype) -> None:
    model = tiny_llama().to(dtype)
    adapter = with_tokens(model, (5, 9, 11))
    named, numbered = ids(), ids()
    named[:, 2:5], numbered[:, 2:5] = torch.tensor([11, 5, 9]), torch.tensor([V + 2, V, V + 1])
    steering = Steering.attach_adapter(model, adapter)
    with steering.at(adapter.gates()):
        assert torch.equal(logits(model, numbered), logits(model, named))
    with steering.merged(adapter.gates()):
        assert torch.equal(logits(model, numbered), logits(model, named))


@pytest.mark.parametrize("mode", ["none", "steering"])
def test_gradients_reach_the_rows_of_the_batch_alone(tiny_llama, mode: str) -> None:
    model = tiny_llama()
    steering = Steering.attach_adapter(model, with_tokens(model, (5, 9, 11, 13)), trainable=True)
    checkpointed(model, mode, steering)
    tokens = ids()
    tokens[0, 3], tokens[2, 0] = V + 2, V

    def loss() -> torch.Tensor:
        return model(input_ids=tokens).logits.double().square().mean()

    with steering.at(steering.gates()):
        loss().backward()
    name, rows = steering.named_parameters()[-1]
    assert name == "tokens" and rows.shape == (4, 64)
    assert rows.grad[[0, 2]].abs().sum(1).min() > 0 and not rows.grad[[1, 3]].any()
    assert model.get_input_embeddings().base.weight.grad is None
    step = torch.zeros_like(rows)
    step[2, 7] = 1e-3
    found = []
    for sign in (1, -1):
        with torch.no_grad(), steering.at(steering.gates()):
            rows += sign * step
            found.append(float(loss()))
            rows -= sign * step
    assert (found[0] - found[1]) / 2e-3 == pytest.approx(float(rows.grad[2, 7]), rel=0.02, abs=1e-4)


def test_packed_log_probabilities_are_those_of_padded_batches(tiny_llama) -> None:
    model = tiny_llama()
    prepare(model)
    adapter = replace(
        with_tokens(model), tokens=torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    )
    groups = [([7, V, V + 2], [[8, 9], [10, 11, 12]]), ([20, 21, V + 1, 22], [[23, 24, 25]])]
    texts = [(prompt, response) for prompt, responses in groups for response in responses]
    width = max(len(prompt) + len(response) for prompt, response in texts)
    padded = torch.tensor([p + r + [0] * (width - len(p) - len(r)) for p, r in texts])
    mask = torch.tensor([[1] * len(p + r) + [0] * (width - len(p + r)) for p, r in texts])
    steering = Steering.attach_adapter(model, adapter)
    with steering.at(adapter.gates()), torch.no_grad():
        packed = packed_logps(model, pack(groups))
        every = logits(model, padded, attention_mask=mask).log_softmax(-1)
    plain = [every[row, range(len(p) - 1, len(p + r) - 1), r].sum() for row, (p, r) in enumerate(texts)]
    torch.testing.assert_close(packed, torch.stack(plain), rtol=1e-5, atol=1e-5)


def test_embeddings_of_another_width_are_refused_and_the_model_left_alone(tiny_llama) -> None:
    model = tiny_llama()
    modules = dict(model.named_modules())
    for rows in (torch.zeros(3, 32), torch.zeros(64)):
        with pytest.raises(ModelError, match=r"embeddings of shape \[.*model's are \[n, 64\]"):
            Steering.attach_adapter(model, replace(random_adapter(model), tokens=rows))
    assert dict(model.named_modules()) == modules and all(p.requires_grad for p in model.parameters())
    model.set_input_embeddings(torch.nn.Identity())
    with pytest.raises(ModelError, match="input embedding is Identity"):
        Steering.attach(model, ALL, 2, tokens=torch.zeros(3, 64))


# The adapter


def test_files_and_fingerprints(tiny_llama, tmp_path: Path) -> None:
    plain = random_adapter(tiny_llama())
    own = with_tokens(tiny_llama())
    own.save(tmp_path / "own")
    loaded = Adapter.load(tmp_path / "own")
    assert torch.equal(loaded.tokens, own.tokens) and adapters_equal(loaded, own)
    assert loaded.fingerprint == own.fingerprint != plain.fingerprint
    assert replace(own, tokens=own.tokens + 1e-6).fingerprint != own.fingerprint
    # Without tokens it is what it was before adapters could have any, and so are the keys of stages and caches.
    raw = [x.numpy().tobytes() for _, pair in sorted(plain.factors.items()) for x in pair]
    assert plain.fingerprint == fingerprint(sorted(plain.factors), [[4, 2.0]], *raw)
    plain.save(tmp_path / "plain")
    assert Adapter.load(tmp_path / "plain").tokens is None


def test_stacks_take_one_set_of_tokens(tiny_llama) -> None:
    model = tiny_llama()
    own, other = with_tokens(model), random_adapter(model, rank=2, seed=1)
    assert torch.equal(stack([other, own]).tokens, own.tokens) and stack([other]).tokens is None
    with pytest.raises(ModelError, match="2 of the adapters to stack have tokens of their own"):
        stack([own, own])


def test_values_are_copied_in_and_out(tiny_llama) -> None:
    model = tiny_llama()
    own = with_tokens(model)
    steering = Steering.attach_adapter(model, own, trainable=True)
    steering.set(replace(own, tokens=own.tokens + 1))
    assert torch.equal(steering.adapter().tokens, own.tokens + 1)
    for tokens in (None, own.tokens[:2]):
        with pytest.raises(ModelError, match="with 3; attach it"):
            steering.set(replace(own, tokens=tokens))


def test_no_other_format_can_hold_them(tiny_llama, tmp_path: Path) -> None:
    model = tiny_llama()
    own = with_tokens(model)
    with pytest.raises(ModelError, match=r"tokens of its own.*methods\.ric\.form=levels"):
        to_peft(own, tmp_path / "x")
    with pytest.raises(ModelError, match=r"tokens of its own.*methods\.ric\.form=levels"):
        Steering.attach_adapter(model, own).save_dense(tmp_path / "x")
    assert not (tmp_path / "x").exists()


# The language model


def user(text: str) -> tuple[Message, ...]:
    """Return a conversation of one turn."""
    return (Message("user", text),)


def test_tags_are_one_token_each_and_other_text_stays(lm: LanguageModel, tiny_llama) -> None:
    assert len(PROMPTING.tags) == 22 and replace(PROMPTING, form="levels").tags == ()
    wide = replace(lm, model=tiny_llama(vocab_size=64))  # more rows than the tokenizer has tokens
    for model in (lm, wide):
        rows = model.model.get_input_embeddings().num_embeddings
        reader = replace(model, tags=PROMPTING.tags)
        for row in make_dataset(5).rows:
            assert reader.encode_prompt(row.prompt) == model.encode_prompt(row.prompt)
            for level in range(11):
                asked = PROMPTING.prompt(row.prompt, (level / 5 - 1, 1 - level / 5))
                read = [i for i in reader.encode_prompt(asked) if i >= rows]
                assert read == [rows + level, rows + 11 + 10 - level]
                assert len(model.encode_prompt(asked)) > len(model.encode_prompt(row.prompt))
        assert reader.encode_response(" ".join(PROMPTING.tags)) == model.encode_response(
            " ".join(PROMPTING.tags)
        )
    assert len(lm.tokenizer) == lm.model.get_input_embeddings().num_embeddings  # ours is a copy


def test_embeddings_start_at_the_mean_of_their_texts(lm: LanguageModel) -> None:
    assert lm.tag_embeddings() is None
    start = replace(lm, tags=("good", "red sun red")).tag_embeddings()
    texts = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in ("good", "red sun red")]
    weight = lm.model.get_input_embeddings().weight
    assert [len(text) for text in texts] == [1, 3]
    torch.testing.assert_close(start, torch.stack([weight[text].mean(0) for text in texts]))
    steering, _ = attach(replace(lm, tags=("good", "red sun red")), TRAINING)
    assert torch.equal(steering.adapter().tokens, start)
    steering.detach()


def test_no_text_of_a_person_becomes_a_tag(lm: LanguageModel) -> None:
    for text in ("x <good: 3/10>", "<short: 10/10> <good: 10/10>"):
        with pytest.raises(DataError, match=r"already holds the tag '<.*remove it"):
            PROMPTING.prompt(user(text), (1, 1))
    cutting = LanguageModel(
        lm.model, type(lm.tokenizer).from_pretrained(lm.name), lm.name, "x", PROMPTING.tags
    )
    cutting.tokenizer.chat_template = (
        "{% for m in messages %}<u>{{ m['content'] | replace('<think>', '') }}</u>{% endfor %}<a>"
    )
    assert len(cutting.encode_prompt(PROMPTING.prompt(user("x"), (1, 1)))) > 4
    smuggled = PROMPTING.prompt(user("<good: <think>10/10>"), (1, -1))
    with pytest.raises(
        DataError, match=r"does not write the text of the role user, '<good: <think>10/10> <sh"
    ):
        cutting.encode_prompt(smuggled)
    adding = LanguageModel(
        lm.model, type(lm.tokenizer).from_pretrained(lm.name), lm.name, "x", PROMPTING.tags
    )
    adding.tokenizer.chat_template = "{% for m in messages %}<u><good: {{ m['content'] }}</u>{% endfor %}<a>"
    assert len(adding.encode_prompt(PROMPTING.prompt(user("x"), (1, 1)))) > 4
    completed = PROMPTING.prompt(user("10/10> x"), (1, -1))
    with pytest.raises(DataError, match=r"3 tags are read from a prompt that holds 2: .*form=levels"):
        adding.encode_prompt(completed)


# Training


LEVELS_SAY = {0: "bad stone", 10: "good kind"}


def demonstrations(objectives: tuple[str, ...] = OBJECTIVES) -> list[Demonstration]:
    """Return what the best and the worst level of ``short`` say, after prompts that differ in nothing else."""
    prompting = replace(PROMPTING, objectives=objectives)
    return [
        Demonstration(prompting.prompt(row.prompt, (level / 5 - 1, 1.0)), text)
        for row in make_dataset(6).rows
        for level, text in LEVELS_SAY.items()
    ]


@pytest.mark.slow
def test_levels_give_different_answers(lm: LanguageModel, tmp_path: Path) -> None:
    """The tokenizer has no word of the tags, so their texts are all alike: only what is learned for each can differ."""
    lab = Lab(lm, tmp_path, replace(TRAINING, steps=60, batch_pairs=4, learning_rate=1e-2))
    adapter = lab.fit_demonstrations("tokens", demonstrations(), tags=PROMPTING.tags)
    text = lab.fit_demonstrations("levels", demonstrations())
    start = replace(lm, tags=PROMPTING.tags).tag_embeddings()
    moved = (adapter.tokens - start).abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == [0, 10, 21] and text.tokens is None
    held_out = [row.prompt for row in make_dataset(3, seed=7).rows]
    for each, reader in ((adapter, replace(lm, tags=PROMPTING.tags)), (text, lm)):
        said = {}
        for level in LEVELS_SAY:
            prompts = [reader.encode_prompt(PROMPTING.prompt(p, (level / 5 - 1, 1.0))) for p in held_out]
            gates = each.gates().expand(len(prompts), -1)
            with attached(lm, each) as steering:
                found = generate(lm, prompts, Sampling(8, temperature=0), [0, 1, 2], steering, gates)
            said[level] = [response.text for response in found]
        if each is adapter:
            assert said == {level: [text] * 3 for level, text in LEVELS_SAY.items()}
        else:
            assert said[0] == said[10]


def test_a_killed_run_resumes_to_the_same_tokens(lm: LanguageModel, tmp_path: Path) -> None:
    items = demonstrations()

    def train(folder: str, settings=TRAINING) -> Adapter:
        return Lab(lm, tmp_path / folder, settings).fit_demonstrations(
            "t", items, items[:4], tags=PROMPTING.tags
        )

    whole = train("whole")
    assert killed(5, lambda: train("killed")) == -signal.SIGKILL
    assert len(list((tmp_path / "killed/checkpoints").glob("*.safetensors"))) == 1
    resumed = train("killed")
    assert adapters_equal(resumed, whole) and torch.equal(resumed.tokens, whole.tokens)
    saving = train("saving", replace(TRAINING, gradient_checkpointing=True))
    assert adapters_equal(saving, whole) and torch.equal(saving.tokens, whole.tokens)


def test_a_stage_of_other_tags_is_another_stage(lm: LanguageModel, tmp_path: Path) -> None:
    names = ("long", "good")
    other = replace(PROMPTING, objectives=names)
    read = [
        [replace(lm, tags=p.tags).encode_prompt(item.prompt) for item in demonstrations(p.objectives)]
        for p in (PROMPTING, other)
    ]
    assert read[0] == read[1]  # numbers do not tell them apart
    for prompting in (PROMPTING, other):
        lab = Lab(lm, tmp_path, replace(TRAINING, steps=1))
        first = lab.fit_demonstrations("t", demonstrations(prompting.objectives), tags=prompting.tags)
        assert not lab.stages[0].reused
    with pytest.raises(
        ModelError, match="embeddings of 22 tokens of its own, but prompts are written with 0"
    ):
        lab.fit_demonstrations("u", demonstrations(), start=first)


# The method


SAMPLING = Sampling(max_new_tokens=12, batch_size=3)
CONFIG = RiCConfig(iterations=1, prompts=6, form="tokens", temperature=1.0, top_p=1.0, online_steps=2)


@pytest.fixture(scope="module")
def run(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Policy]:
    """Return the lab of a run with one online stage, and its policy."""
    lab = Lab(lm, tmp_path_factory.mktemp("ric"), replace(TRAINING, steps=3))
    return lab, ric.train(
        Inputs(
            lab,
            make_dataset(8),
            make_dataset(3, seed=1),
            scorers=SCORERS,
            sampling=replace(SAMPLING, max_new_tokens=40),
        ),
        CONFIG,
    )


def test_a_saved_policy_answers_the_same(run: tuple[Lab, Policy], tmp_path: Path) -> None:
    lab, policy = run
    assert (
        policy.lm.tags == Prompting.from_dict(policy.adapters[0].info["prompting"]).tags and not lab.lm.tags
    )
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy", lab.lm)
    prompts = [row.prompt for row in make_dataset(4, seed=5).rows]
    preferences = [Preference(OBJECTIVES, (w, 1 - w)) for w in (1.0, 0.75, 0.3, 0.0)]
    answers = policy.generate(prompts, preferences, SAMPLING)
    assert loaded.generate(prompts, preferences, SAMPLING) == answers
    assert torch.equal(loaded.adapters[0].tokens, policy.adapters[0].tokens)
    assert (
        loaded.effective(preferences[0])
        == policy.effective(preferences[0])
        != policy.effective(preferences[3])
    )
    asked = [policy.lm.encode_prompt(prompt) for prompt in policy.asked(prompts, preferences)]
    rows = policy.lm.model.get_input_embeddings().num_embeddings
    assert all(sum(i >= rows for i in prompt) == 2 for prompt in asked)
    packed = policy.logps([(p, [a.tokens]) for p, a in zip(asked, answers, strict=True)], preferences)
    for n, answer in enumerate(answers):
        (alone,) = policy.generate([prompts[n]], [preferences[n]], SAMPLING, [n])
        assert alone.tokens == answer.tokens
        assert float(packed[n][0]) == pytest.approx(answer.logp, abs=1e-4)
        exact = policy.distribution(asked[n], answer.tokens, preferences[n])
        tokens = torch.tensor(answer.tokens)
        assert float(exact.gather(1, tokens[:, None]).sum()) == pytest.approx(answer.logp, abs=1e-4)


def test_both_stages_train_the_tokens_and_are_found_again(run: tuple[Lab, Policy], tmp_path: Path) -> None:
    lab, policy = run
    offline = Adapter.load(lab.folder / "adapters" / "ric-offline" / "adapter")
    start = policy.lm.tag_embeddings()
    assert offline.tokens.shape == policy.adapters[0].tokens.shape == (22, 64)
    assert not torch.equal(offline.tokens, start) and not torch.equal(
        offline.tokens, policy.adapters[0].tokens
    )
    again = Lab(lab.lm, lab.folder, replace(TRAINING, steps=3))
    data = make_dataset(8), make_dataset(3, seed=1)
    other = ric.train(
        Inputs(again, *data, scorers=SCORERS, sampling=replace(SAMPLING, max_new_tokens=40)), CONFIG
    )
    assert all(stage.reused for stage in again.stages) and len(again.stages) == 3
    assert other.adapters[0].fingerprint == policy.adapters[0].fingerprint


def test_what_cannot_be_served_or_exported_is_refused(run: tuple[Lab, Policy], tmp_path: Path) -> None:
    lab, policy = run
    preference = Preference(OBJECTIVES, (0.5, 0.5))
    for form in ("lora", "dense"):
        with pytest.raises(ModelError, match=r"methods\.ric\.form=levels"):
            export(policy, preference, tmp_path / form, form)  # type: ignore[arg-type]
    (adapter,) = policy.adapters
    with pytest.raises(
        ModelError, match="embeddings of 0 tokens of its own, but prompts are written with 22"
    ):
        Policy.prompted("x", lab.lm, OBJECTIVES, replace(adapter, tokens=None))
    told = {**adapter.info, "prompting": {**adapter.info["prompting"], "form": "levels"}}
    with pytest.raises(
        ModelError, match="embeddings of 22 tokens of its own, but prompts are written with 0"
    ):
        Policy.prompted("x", lab.lm, OBJECTIVES, replace(adapter, info=told))
    row = make_dataset(1).rows[0]
    with pytest.raises(DataError, match="already holds the tag"):
        policy.generate([user("<short: 10/10>")], [preference])
    assert len(policy.generate([row.prompt], [preference], SAMPLING)) == 1
