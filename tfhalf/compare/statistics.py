"""Whether one setting loses against another, over seeds: differences, intervals, a verdict, and seconds to a target.

The difference of two settings is taken seed by seed where both have the same seeds: they share initial weights and the
order of the data, so that much of the spread cancels. Its mean has Student's t interval. Two one-sided tests lead to
the verdict. One is against a loss of the margin or more, at 5 %: rejected, there is *no loss* (non-inferiority, as in
S. Wellek, "Testing Statistical Hypotheses of Equivalence and Noninferiority", 2nd ed., chapter 2). The other is
against no loss at all, at 2.5 %, so that it and the 95 % interval say the same: rejected, the setting *loses*. Where
neither is rejected, the matter is *not decided*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfhalf.compare.records import Difference, MetricFacts, Summary, TimeTo, Verdict

ALPHA = 0.05
_MOST_SEEDS = 10_000


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of a sample of ``values``, one or more."""
    x = np.asarray(values, np.float64)
    return Summary(float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else 0.0, tuple(map(float, x)))


def difference(
    values: Mapping[int, float], reference: Mapping[int, float], facts: MetricFacts, margin: float
) -> Difference:
    """How much worse ``values`` are than ``reference``, both by seed.

    Args:
        margin: the loss that does not count, in the metric's unit (a share's from 0 to 1).
    """
    sign = -1.0 if facts.higher else 1.0
    shared = sorted(values.keys() & reference.keys())
    paired = len(shared) >= 2
    if paired:
        losses = sign * np.array([values[seed] - reference[seed] for seed in shared])
        count = len(shared)
        loss, error = float(losses.mean()), float(losses.std(ddof=1) / math.sqrt(count))
        freedom: float = count - 1
    else:
        loss, error, freedom = _unpaired(
            sign * np.array(list(values.values())), sign * np.array(list(reference.values()))
        )
        count = min(len(values), len(reference))
    if not math.isfinite(loss):
        return _not_finite(facts, margin, paired, count)
    if not freedom:
        one = "one seed tells no spread: give 2 or more, 5 are usual"
        words = f"not decided: {_change(loss, facts)}; {one}"
        return Difference(loss, math.inf, margin, "not decided", paired, count, math.nan, words, 4)
    p_loss = _tail(loss - margin, error, freedom)  # of a loss below the margin
    p_none = 1 - _tail(loss, error, freedom)
    half = float(_quantile(1 - ALPHA / 2, freedom)) * error
    verdict: Verdict = "not decided"
    if p_loss < ALPHA:
        verdict = "no loss"
    elif p_none < ALPHA / 2:
        verdict = "loses"
    more = _more_seeds(loss, error * math.sqrt(count), margin, count) if verdict == "not decided" else None
    return Difference(
        loss, half, margin, verdict, paired, count, p_loss, _words(verdict, loss, half, margin, more, facts), more
    )


def _unpaired(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Difference of two means, its standard error, and its degrees of freedom by Welch; 0 where one has one value."""
    loss = float(x.mean() - y.mean())
    if len(x) < 2 or len(y) < 2:
        return loss, 0.0, 0
    a, b = float(x.var(ddof=1) / len(x)), float(y.var(ddof=1) / len(y))
    if not a + b:
        return loss, 0.0, len(x) + len(y) - 2
    return loss, math.sqrt(a + b), (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))


def _tail(difference: float, error: float, freedom: float) -> float:
    """P(T <= difference / error)."""
    if not error:
        return 0.0 if difference < 0 else 0.5 if difference == 0 else 1.0
    from scipy.stats import t

    return float(t.cdf(difference / error, freedom))


def _quantile(share: float, freedom: Any) -> Any:
    from scipy.stats import t  # it takes most of a second to import

    return t.ppf(share, freedom)


def _more_seeds(loss: float, deviation: float, margin: float, count: int) -> int | None:
    """About how many more seeds would decide, were mean and deviation to stay; None where more than 10,000 would."""
    seeds = np.unique(np.geomspace(count + 1, _MOST_SEEDS, 1000).astype(int))
    error = deviation / np.sqrt(seeds)
    below = loss + _quantile(1 - ALPHA, seeds - 1) * error < margin
    above = (loss - _quantile(1 - ALPHA / 2, seeds - 1) * error > 0) & (loss >= margin)
    enough = seeds[below | above]
    return int(enough[0]) - count if len(enough) else None


def _not_finite(facts: MetricFacts, margin: float, paired: bool, count: int) -> Difference:
    words = f"loses: its {facts.name} is not finite"
    return Difference(math.inf, math.inf, margin, "loses", paired, count, 1.0, words)


def _change(loss: float, facts: MetricFacts) -> str:
    """A loss as people read it: a share's in points."""
    if facts.share:
        return f"{loss * 100:+.2f} points" if abs(loss) < 10 else "not finite"
    return f"{loss:+,.0f} {facts.unit}".strip() if abs(loss) >= 1e3 else f"{loss:+.3g} {facts.unit}".strip()


def margin_words(margin: float, facts: MetricFacts) -> str:
    """``0.1 point`` of a share, else the number with its unit."""
    if facts.share:
        points = margin * 100
        return f"{points:g} point" + ("" if points == 1 or points < 1 else "s")
    return f"{margin:,.3g} {facts.unit}".strip()


def _words(verdict: Verdict, loss: float, half: float, margin: float, more: int | None, facts: MetricFacts) -> str:
    scale, digits = (100, "{:.2f}") if facts.share else (1, "{:,.0f}" if max(abs(loss), half) >= 1e3 else "{:.3g}")
    gain = digits.format(-loss * scale if loss else 0.0)
    figures = f"{'+' if loss < 0 else ''}{gain} ± {digits.format(half * scale)}"
    if not facts.higher:  # an error: what it grows by
        grown = digits.format(loss * scale if loss else 0.0)
        figures = f"{'+' if loss > 0 else ''}{grown} ± {digits.format(half * scale)}"
    if verdict == "no loss":
        return f"no loss at {margin_words(margin, facts)}: {figures}"
    if verdict == "loses":
        return f"loses {digits.format(loss * scale)} ± {digits.format(half * scale)}"
    seeds = "more than 10,000 more seeds" if more is None else f"about {more:,} more seed{'s' if more != 1 else ''}"
    return f"not decided at {margin_words(margin, facts)}: {figures}; {seeds} would decide it"


def time_to(seconds: Sequence[float | None]) -> TimeTo:
    """Of each run the seconds until the target, None of one that never reached it.

    As in MLPerf's training rules ("Benchmark Results", github.com/mlcommons/training_policies): the fastest and the
    slowest run are dropped and the rest averaged, one run that never gets there counts as the slowest, and of more
    there is no result. Fewer than three runs are averaged whole, where all get there.
    """
    reached = sorted(one for one in seconds if one is not None)
    missed = len(seconds) - len(reached)
    if not reached or missed > 1 or (missed and len(seconds) < 3):
        return TimeTo(None, len(reached), missed)
    kept = reached
    if len(seconds) >= 3:
        kept = reached[1:] if missed else reached[1:-1]
    return TimeTo(float(np.mean(kept)), len(reached), missed)
