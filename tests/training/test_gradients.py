"""Rules from gradients to a step: worked numbers, laws, brute force by scipy, and torchjd where it is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.training.gradients import GradientRule, backward_passes, coefficients, cosines

RULES = ("observed", "raco", "cagrad", "mgda", "pcgrad", "upgrad")
WITNESS = np.array([[1.0, -4.0], [-1.0, 1.0]])


def world(seed: int, M: int, dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gradients ``[M, P]``, their Gram matrix and a preference."""
    random = np.random.default_rng(seed)
    J = random.normal(size=(M, dimensions))
    return J, J @ J.T, random.dirichlet(np.ones(M))


def step(J: np.ndarray, w: np.ndarray, rule: str, c: float = 0.5, seed: int = 0) -> np.ndarray:
    return coefficients(J @ J.T, w, GradientRule(rule, c), seed) @ J  # type: ignore[arg-type]


def test_worked_numbers_of_raco() -> None:
    """g = (1, -4), (-1, 1), w = (.2, .8), c = .5: lambda = (.356145, .643855), of which the first is cut to .2."""
    w = np.array([0.2, 0.8])
    g0 = w @ WITNESS
    cut = np.array([0.2, 0.643855]) @ WITNESS
    wanted = g0 + 0.5 * np.linalg.norm(g0) * cut / np.linalg.norm(cut)
    assert step(WITNESS, w, "raco") == pytest.approx(wanted, abs=1e-5)
    free = np.array([0.356145, 0.643855]) @ WITNESS
    assert step(WITNESS, w, "cagrad") == pytest.approx(
        g0 + 0.5 * np.linalg.norm(g0) * free / np.linalg.norm(free), abs=1e-5
    )


def test_worked_numbers_of_the_others() -> None:
    """Gradients (2, 0) and (-1, 1) at equal weights: the shortest mixture is at lambda = (.4, .6)."""
    J, half = np.array([[2.0, 0.0], [-1.0, 1.0]]), np.array([0.5, 0.5])
    assert step(J, half, "mgda") == pytest.approx([0.2, 0.6])
    # g1 + (2 / 2) g2 = (1, 1); g2 + (2 / 4) g1 = (0, 1)
    assert step(J, half, "pcgrad") == pytest.approx([0.5, 1.0])
    assert step(J, half, "upgrad") == pytest.approx([0.5, 1.0])
    assert step(J, half, "observed") == pytest.approx([0.5, 0.5])
    # With w = (.8, .2) objective 1 falls four times as fast as objective 2: <d, g> = (t .8, t .2).
    d = step(J, np.array([0.8, 0.2]), "mgda")
    assert (J @ d)[0] / (J @ d)[1] == pytest.approx(4.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("M", [2, 3, 5])
def test_laws_of_every_rule(rule: str, M: int) -> None:
    for seed in range(8):
        _, gram, w = world(seed, M, 6)
        alpha = coefficients(gram, w, GradientRule(rule, 0.4))  # type: ignore[arg-type]
        assert (alpha >= -1e-12).all()
        scaled = coefficients(gram * 1e-12, w, GradientRule(rule, 0.4))  # type: ignore[arg-type]
        assert scaled == pytest.approx(alpha, rel=1e-5, abs=1e-7)
        if rule != "pcgrad" or M == 2:  # its order is drawn
            order = np.random.default_rng(seed).permutation(M)
            moved = coefficients(gram[np.ix_(order, order)], w[order], GradientRule(rule, 0.4))  # type: ignore[arg-type]
            assert moved == pytest.approx(alpha[order], rel=1e-5, abs=1e-7)
        one_hot = np.eye(M)[0]
        assert np.array_equal(coefficients(gram, one_hot, GradientRule(rule, 0.4)), one_hot)  # type: ignore[arg-type]
        orthogonal = coefficients(np.eye(M), w, GradientRule(rule, 0.0))  # type: ignore[arg-type]
        assert orthogonal == pytest.approx(w)  # without conflict and correction all are linear scalarisation


@pytest.mark.parametrize("rule", ["mgda", "upgrad"])
@given(seed=st.integers(0, 10_000), M=st.integers(2, 5), dimensions=st.integers(1, 7))
def test_no_objective_rises(rule: str, seed: int, M: int, dimensions: int) -> None:
    J, gram, w = world(seed, M, dimensions)
    d = coefficients(gram, w, GradientRule(rule)) @ J  # type: ignore[arg-type]
    assert (J @ d >= -1e-6 * gram.diagonal().max()).all()
    if rule == "mgda":  # at a rate of at least w_i |d|^2 / |w|^2
        assert (J @ d >= w * (d @ d) / (w @ w) - 1e-6 * gram.diagonal().max()).all()


@given(seed=st.integers(0, 10_000), M=st.integers(2, 5), c=st.floats(0.01, 0.95))
def test_the_correction_is_within_its_radius_and_descends(seed: int, M: int, c: float) -> None:
    J, _, w = world(seed, M, 4)
    g0 = w @ J
    for rule in ("raco", "cagrad"):
        d = step(J, w, rule, c)
        assert np.linalg.norm(d - g0) <= c * np.linalg.norm(g0) * (1 + 1e-6)
        assert d @ g0 >= (1 - c) * (g0 @ g0) * (1 - 1e-6)  # the weighted loss falls


def least(fun: object, M: int, low: np.ndarray, total: float | None) -> np.ndarray:
    """Return a constrained minimiser by SLSQP, the best of several starts."""
    constraints = [] if total is None else [{"type": "eq", "fun": lambda x: x.sum() - total}]
    starts = [low + 1 / M, *(low + row for row in np.eye(M))]
    options = {"ftol": 1e-15, "maxiter": 1000}
    bounds = [(at, None) for at in low]
    found = [
        minimize(fun, x, bounds=bounds, constraints=constraints, method="SLSQP", options=options)
        for x in starts
    ]
    return min(found, key=lambda one: one.fun).x


@pytest.mark.parametrize("M", [2, 3, 4])
def test_brute_force_finds_nothing_better(M: int) -> None:
    """CAGrad's primal: the largest worst descent within the radius; MGDA and UPGrad: their quadratic programmes."""
    for seed in range(6):
        J, gram, w = world(seed, M, 4)
        g0, c = w @ J, 0.4
        random = np.random.default_rng(seed)
        directions = random.normal(size=(20_000, J.shape[1]))
        directions *= (random.uniform(size=20_000) ** 0.25 / np.linalg.norm(directions, axis=1))[:, None]
        tried = g0 + c * np.linalg.norm(g0) * directions
        assert (J @ step(J, w, "cagrad", c)).min() >= (tried @ J.T).min(1).max() - 1e-9
        shortest = least(lambda x, G=gram: x @ G @ x, M, np.zeros(M), 1.0)
        found = coefficients(gram, np.full(M, 1 / M), GradientRule("mgda"))
        assert found.sum() == pytest.approx(1.0)
        assert found @ gram @ found <= shortest @ gram @ shortest + 1e-9
        upgrad = sum(least(lambda x, G=gram: x @ G @ x, M, w[i] * np.eye(M)[i], None) for i in range(M))
        assert step(J, w, "upgrad") == pytest.approx(upgrad @ J, abs=1e-3)


def test_where_gradients_cancel_the_step_is_finite() -> None:
    """g1 = -g2: the weighted gradient where it is not 0, and no step that helps neither."""
    J = np.array([[1.0, 0.0], [-1.0, 0.0]])
    for rule in RULES:
        assert np.isfinite(step(J, np.array([0.5, 0.5]), rule)).all()
        assert np.linalg.norm(step(J, np.array([0.5, 0.5]), rule)) < 1e-6
    assert step(J, np.array([0.8, 0.2]), "raco", 0.5) @ [1, 0] >= 0.3 - 1e-9
    # Same gradients: every rule steps along them.
    same = np.array([[1.0, 2.0], [1.0, 2.0]])
    for rule in RULES:
        d = step(same, np.array([0.7, 0.3]), rule)
        assert d[1] == pytest.approx(2 * d[0]) and d[0] > 0


def test_an_objective_without_gradient_or_weight_takes_no_part() -> None:
    gram = np.zeros((3, 3))
    gram[:2, :2] = WITNESS @ WITNESS.T
    w = np.array([0.2, 0.5, 0.3])
    for rule in RULES:
        alpha = coefficients(gram, w, GradientRule(rule))  # type: ignore[arg-type]
        alone = coefficients(gram[:2, :2], w[:2], GradientRule(rule))  # type: ignore[arg-type]
        assert alpha[:2] == pytest.approx(alone) and alpha[2] == 0.3


def test_cosines_and_backward_passes() -> None:
    assert cosines(np.array([[4.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])) == {
        (0, 1): pytest.approx(-0.5)
    }
    w = Preference.parse("a=0.5,b=0.5,c=0")
    assert backward_passes(w, GradientRule("raco")) == 2 and backward_passes(w, GradientRule()) == 1


def test_the_order_of_pcgrad_follows_its_seed() -> None:
    J, _, w = world(3, 5, 3)
    first, again, other = (step(J, w, "pcgrad", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.slow
def test_torchjd_agrees() -> None:
    """Its weightings, on the same Gram matrices; its MGDA stops at a tolerance, its PCGrad does not average."""
    jd = pytest.importorskip("torchjd.aggregation")
    torch = pytest.importorskip("torch")
    for seed in range(5):
        _, gram, w = world(seed, 3, 5)
        given, equal = torch.from_numpy(gram), np.full(3, 1 / 3)
        mgda = jd.MGDAWeighting(epsilon=1e-9, max_iters=20_000)(given).numpy()
        mine = coefficients(gram, equal, GradientRule("mgda"))
        assert mine @ gram @ mine == pytest.approx(mgda @ gram @ mgda, rel=1e-3, abs=1e-6)
        aligned = jd.AlignedMTLWeighting(pref_vector=torch.from_numpy(w))(given / gram.diagonal().max())
        assert coefficients(gram, w, GradientRule("aligned-mtl")) == pytest.approx(aligned.numpy())
    two = np.array([[1.0, -0.5], [-0.5, 2.0]])
    assert 2 * coefficients(two, np.array([0.5, 0.5]), GradientRule("pcgrad")) == pytest.approx(
        jd.PCGradWeighting()(torch.from_numpy(two)).numpy()
    )


def test_a_missing_torchjd_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ConfigError, match=r"pip install 'paretune\[gradients\]'"):
        GradientRule("aligned-mtl").check()
