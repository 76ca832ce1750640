"""Records of runs (``front.json``) as JSON values, whole but small."""

from typing import Any


def figure(value, width=0.5):
    """Return a figure with its interval; of None the undefined one."""
    low, high = (None, None) if value is None else (value - width, value + width)
    return {"value": value, "low": low, "high": high, "level": 0.95}


def point(preference: dict[str, float], mean, low=None, high=None, **rest: Any) -> dict[str, Any]:
    """Return a measured point, whose bands are its intervals."""
    bounds = [list(mean if given is None else given) for given in (low, high)]
    return {
        "preference": preference,
        "used": preference,
        "mean": list(mean),
        "low": bounds[0],
        "high": bounds[1],
        "band_low": bounds[0],
        "band_high": bounds[1],
        "shrunk": list(mean),
        "on_front": 1.0,
        "collapse_rate": 0.0,
        "cut_rate": 0.25,
        "log_ratio": figure(7.5),
        "conflict": figure(0.0, 0.0),
        "base_logp": -1.5,
        "words": 40.0,
        "responses": [],
        **rest,
    }


def test(first: str, second: str, difference: float, verdict: str, **rest: Any) -> dict[str, Any]:
    """Return a paired test whose interval agrees with its verdict."""
    width = 0.2 if verdict.endswith(" above") else 1.0
    return {
        "first": first,
        "second": second,
        "verdict": verdict,
        "difference": difference,
        "low": difference - width,
        "high": difference + width,
        "level": 0.95,
        "p_value": 0.012,
        "adjusted": 0.024,
        "detectable": 0.31,
        "enough_prompts": 400,
        "preferences": [[1.0, 0.0], [0.0, 1.0]],
        "prompts": 60,
        "seeds": [0, 0],
        "unit": [2.8, 1.05],
        "hypervolumes": [9.0, 8.0],
        **rest,
    }


def policy(name: str, points, **rest: Any) -> dict[str, Any]:
    """Return a measured policy."""
    return {
        "name": name,
        "anchored": False,
        "points": points,
        "figures": {"hypervolume": figure(9.0)},
        "non_dominated": [True] * len(points),
        "knee": 0,
        "seconds": 20.0,
        "tokens": 4800,
        **rest,
    }


def record(objectives, policies, **rest: Any) -> dict[str, Any]:
    """Return a whole record of the present format."""
    M = len(objectives)
    uniform = dict.fromkeys(objectives, 1 / M)
    return {
        "format": 8,
        "name": "tiny",
        "version": "0.1.0",
        "created": "2026-11-22",
        "model": "smollm2-135m",
        "objectives": list(objectives),
        "reference_point": [-7.0] * M,
        "prompts": [],
        "num_prompts": 60,
        "base": {**point(uniform, [-6.0] * M), "hypervolume": figure(5.5)},
        "policies": policies,
        "mixture": {"points": [[0.0] * M], "hypervolume": figure(8.0)},
        "comparisons": [],
        **rest,
    }
