"""PAL's ideal points: everybody's taste is a mixture of K prototypes in a space of responses, learned from votes.

Chen et al. 2024 (arXiv 2406.08469; PAL, "pluralistic alignment"). With e(x, y) the frozen embedding of a response, f a small map of
it, and w_u the weights of a user u on the simplex,

    u = sum_k w_uk p_k                  model A: K points
    u(x) = sum_k w_uk g_k(x)            model B: K functions of the prompt; the response is embedded alone, f(e(y))
    P(u prefers first) = sigmoid(d(f(second), u) - d(f(first), u))

so what is nearer to the user's point wins. d is the squared distance (``squared``), or the distance as in the released code
(``norm``). For the squared one

    |f - u|^2 = sum_k w_k |f - p_k|^2 - sum_k w_k |p_k - u|^2

and the last term is the same for every response: each prototype is then an objective, -|f - p_k|^2, and the user's weights are
exactly their preference over these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from scipy.optimize import minimize

from paretune.core.bounds import Natural, check_bounds
from paretune.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Mapping[str, np.ndarray]

PRIOR = 0.25
"""Strength of the pull of a user's logits to the mean of all: a deviation of 2 logits, which nearly one-hot weights need, costs
half a nat. A user with one vote stays near the mean."""
SMOOTH = 5.0
"""Width of the quadratic part of the smoothed hinge, as in the released code."""
SMALL = 0.3
"""Deviation of the first numbers of a map of features: |f|^2, which is the same for all tastes, is small at first."""
ITERATIONS = 250


@dataclass(frozen=True)
class PALForm:
    """The form of the model.

    Attributes:
        model: ``A``: prototypes are points; ``B``: they are functions of the prompt.
        prototypes: K.
        dimension: Size of the space of responses.
        hidden: Neurons of a hidden layer of f, and of each g; 0 is a linear map.
        distance: ``squared``, under which prototypes are objectives that weights mix exactly, or ``norm`` as in the released code.
        loss: ``logistic``, or the ``hinge``, smoothed as in the released code.
    """

    model: Literal["A", "B"] = "A"
    prototypes: Annotated[int, Ge(1), Le(64)] = 2
    dimension: Annotated[int, Ge(1), Le(4096)] = 8
    hidden: Natural = 0
    distance: Literal["squared", "norm"] = "squared"
    loss: Literal["logistic", "hinge"] = "logistic"

    def __post_init__(self) -> None:
        check_bounds(self)
        for name, allowed in (
            ("model", ("A", "B")),
            ("distance", ("squared", "norm")),
            ("loss", ("logistic", "hinge")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r}; expected one of: {', '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class Ballots:
    """V votes as arrays.

    Attributes:
        first, second: Features ``[V, D]`` of the two responses.
        prompts: Features ``[V, E]`` of the prompts; model A does not read them.
        users: Number of the user of each vote ``[V]``.
        signs: 1 where the first won, -1 where the second did, 0 for a tie ``[V]``.
    """

    first: np.ndarray
    second: np.ndarray
    prompts: np.ndarray
    users: np.ndarray
    signs: np.ndarray

    def __len__(self) -> int:
        return len(self.signs)

    def __getitem__(self, rows: np.ndarray) -> Ballots:
        return Ballots(
            self.first[rows], self.second[rows], self.prompts[rows], self.users[rows], self.signs[rows]
        )


def initial(form: PALForm, items: int, prompts: int, seed: int) -> dict[str, np.ndarray]:
    """Return random parameters: the map of D features of responses, and prototypes, for model B from E features of prompts.

    Features have a mean squared norm of 1.
    """
    random = np.random.default_rng(seed)
    d, h, K = form.dimension, form.hidden, form.prototypes

    def layers(name: str, inside: int, *before: int) -> dict[str, np.ndarray]:
        made = {}
        if h:
            made[f"{name}.in"] = random.normal(size=(*before, h, inside))
            made[f"{name}.bias"] = np.zeros((*before, h))
        made[f"{name}.out"] = random.normal(size=(*before, d, h or inside)) * (h**-0.5 if h else SMALL)
        return made

    found = layers("item", items)
    if form.model == "A":
        return found | {"prototypes": random.normal(size=(K, d))}
    return found | layers("prototype", prompts, K) | {"prototypes": random.normal(size=(K, d))}


def _map(parameters: Mapping[str, Tensor], name: str, features: Tensor) -> Tensor:
    """Return a map ``[n, d]``, or the K maps of prototypes ``[n, K, d]``, of features ``[n, D]``."""
    import torch

    layer = "kdh,nh->nkd" if parameters[f"{name}.out"].ndim == 3 else "dh,nh->nd"
    if f"{name}.in" not in parameters:
        return torch.einsum(layer, parameters[f"{name}.out"], features)
    several = parameters[f"{name}.out"].ndim == 3
    inner = torch.einsum("khe,ne->nkh" if several else "he,ne->nh", parameters[f"{name}.in"], features)
    inner = torch.nn.functional.gelu(inner + parameters[f"{name}.bias"])
    return torch.einsum("kdh,nkh->nkd" if several else layer, parameters[f"{name}.out"], inner)


def _distance(form: PALForm, points: Tensor, ideals: Tensor) -> Tensor:
    squared = (points - ideals).square().sum(-1)
    # The root has no gradient at 0.
    return squared if form.distance == "squared" else (squared + 1e-12).sqrt()


def _points(form: PALForm, parameters: Mapping[str, Tensor], prompts: Tensor) -> Tensor:
    """Return the prototypes ``[n or 1, K, d]``."""
    if form.model == "A":
        return parameters["prototypes"][None]
    return _map(parameters, "prototype", prompts) + parameters["prototypes"]


def _margins(
    form: PALForm, parameters: Mapping[str, Tensor], weights: Tensor, ballots: tuple[Tensor, ...]
) -> Tensor:
    """Return d(second, u) - d(first, u) ``[V]`` of votes at the weights ``[V, K]`` of who cast them."""
    first, second, prompts = ballots
    ideal = (weights[..., None] * _points(form, parameters, prompts)).sum(1)
    near, far = (_distance(form, _map(parameters, "item", each), ideal) for each in (first, second))
    return far - near


def losses(form: PALForm, margins: Tensor, signs: Tensor) -> Tensor:
    """Return the loss ``[V]`` of votes with margins for the first; a tie counts half for each response.

    ``logistic``: softplus(-z). ``hinge``, with z the margin of the winner and s = :data:`SMOOTH`: (1 - z)^2 / 2s in [1 - s, 1], 0
    above, and 1 - s/2 - z below.
    """
    import torch

    def one_way(z: Tensor) -> Tensor:
        if form.loss == "logistic":
            return torch.nn.functional.softplus(-z)
        quadratic = (1 - z).clamp(min=0).square() / (2 * SMOOTH)
        return torch.where(z >= 1 - SMOOTH, quadratic, 1 - SMOOTH / 2 - z)

    tied = (one_way(margins) + one_way(-margins)) / 2
    return torch.where(signs == 0, tied, one_way(signs * margins))


def _tensors(ballots: Ballots) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    import torch

    arrays = (ballots.first, ballots.second, ballots.prompts)
    read = tuple(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)) for array in arrays)
    return read, torch.from_numpy(ballots.users), torch.from_numpy(ballots.signs.astype(np.float64))


def fit(
    form: PALForm, ballots: Ballots, users: int, l2: float, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Return parameters, the logits of the users' weights ``[users, K]``, and the mean loss, fitted together by L-BFGS.

    The objective is the mean loss of the votes, ``l2 / 2`` times the squared parameters, and ``PRIOR / 2`` times the squared
    distances of logits from their mean, divided by the number of votes. It has several minima; ``seed`` decides the start.
    """
    import torch

    start = initial(form, ballots.first.shape[1], ballots.prompts.shape[1], seed)
    random = np.random.default_rng([seed, 1])
    start["logits"] = random.normal(size=(users, form.prototypes)) * 0.5
    sizes = {name: array.shape for name, array in start.items()}
    votes, owners, signs = _tensors(ballots)

    def unpacked(flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([int(np.prod(shape)) for shape in sizes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(sizes.items(), parts, strict=True)}

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.from_numpy(values).requires_grad_()
        parameters = unpacked(flat)
        logits = parameters.pop("logits")
        margins = _margins(form, parameters, logits.softmax(-1)[owners], votes)
        loss = losses(form, margins, signs).mean()
        pull = (logits - logits.mean(0)).square().sum() * PRIOR / (2 * len(ballots))
        decay = sum(part.square().sum() for part in parameters.values()) * l2 / 2
        total = loss + pull + decay
        total.backward()
        gradient = flat.grad
        assert gradient is not None
        return float(total.detach()), gradient.numpy()

    flat = np.concatenate([array.ravel() for array in start.values()])
    found = minimize(objective, flat, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    parameters = {name: part.numpy() for name, part in unpacked(torch.from_numpy(found.x)).items()}
    logits = parameters.pop("logits")
    return parameters, logits, mean_loss(form, parameters, logits, ballots)


def mean_loss(form: PALForm, parameters: Parameters, logits: np.ndarray, ballots: Ballots) -> float:
    """Return the mean loss of votes at the users' weights."""
    import torch

    found = torch.from_numpy(margins(form, parameters, logits, ballots))
    return float(losses(form, found, torch.from_numpy(ballots.signs.astype(np.float64))).mean())


def margins(form: PALForm, parameters: Parameters, logits: np.ndarray, ballots: Ballots) -> np.ndarray:
    """Return the margins ``[V]`` of the first responses for the users who voted, with logits ``[users, K]``."""
    import torch

    votes, owners, _ = _tensors(ballots)
    held = {name: torch.from_numpy(array) for name, array in parameters.items()}
    weights = torch.from_numpy(logits).softmax(-1)[owners]
    return np.asarray(_margins(form, held, weights, votes).numpy())


def fit_user(form: PALForm, parameters: Parameters, ballots: Ballots, mean: np.ndarray) -> np.ndarray:
    """Return the logits ``[K]`` of a new user's weights from their votes alone; all else stays as it is.

    It minimises the loss of the votes and ``PRIOR / 2`` times the squared distance from the ``mean`` logits of the users that the
    prototypes were learned from, and starts there and near each prototype. Under the squared distance the loss is convex in the
    weights. Without a vote it is the mean.
    """
    import torch

    if not len(ballots):
        return mean.copy()
    votes, _, signs = _tensors(ballots)
    held = {name: torch.from_numpy(array) for name, array in parameters.items()}
    centre = torch.from_numpy(mean)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.from_numpy(values).requires_grad_()
        weights = logits.softmax(-1).expand(len(ballots), -1)
        loss = losses(form, _margins(form, held, weights, votes), signs).sum()
        total = loss + PRIOR / 2 * (logits - centre).square().sum()
        total.backward()
        gradient = logits.grad
        assert gradient is not None
        return float(total.detach()), gradient.numpy()

    starts = [mean, *(mean + 2 * corner for corner in np.eye(form.prototypes))]
    runs = [minimize(objective, start, jac=True, method="L-BFGS-B") for start in starts]
    return np.asarray(min(runs, key=lambda run: float(run.fun)).x)


def scores(form: PALForm, parameters: Parameters, items: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Return ``-d(f, p_k)`` as ``[n, K]``: how near responses are to each prototype, higher is nearer.

    Args:
        form: The form of the model.
        parameters: Its parameters.
        items: Features ``[n, D]`` of responses.
        prompts: Features ``[n, E]`` of their prompts; model A does not read them.
    """
    import torch

    held = {name: torch.from_numpy(array) for name, array in parameters.items()}
    read, asked = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)) for x in (items, prompts))
    points = _map(held, "item", read)[:, None]
    return np.asarray(-_distance(form, points, _points(form, held, asked)).numpy())
