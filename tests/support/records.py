"""Records of runs (``front.json``) as JSON values, whole but small."""

from typing import Any


def figure(value, width=0.5):
    """Return a figure with its interval; of None the undefined one."""
    low, high = (None, None) if value is None else (value - width, value + width)
    return {"value": value, "low": low, "high": high, "level": 0.95}


def point(preference: dict[str, float], mean, low=None, high=None, **rest: Any) -> dict[str, Any]:
    """Return a measured point."""
    return {
        "preference": preference,
        "used": preference,
        "mean": list(mean),
        "low": list(mean if low is None else low),
        "high": list(mean if high is None else high),
        "collapse_rate": 0.0,
        "cut_rate": 0.25,
        "kl": figure(7.5),
        "conflict": figure(0.0, 0.0),
        "base_logp": -1.5,
        "words": 40.0,
        "responses": [],
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
        "format": 2,
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
