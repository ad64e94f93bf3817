"""Which items go to validation or test: drawn at random, class by class where there are classes, the same for the same
seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfhalf.errors import DataError

Indices = npt.NDArray[np.intp]


def draw(y: npt.NDArray[np.int32], amount: int | float, seed: int, *, key: str, source: str) -> tuple[Indices, Indices]:
    """Indices (kept, drawn), both ascending, disjoint, together all of ``y``.

        quota[c] = floor(n * count[c] / N), at most count[c] - 1
        the rest of n goes to the classes with the largest remainder
        drawn    = for each class, quota[c] of its items by random permutation

    Every class keeps at least one item, so a class of one item is never drawn from.

    Args:
        y: labels [N], int32; all 0 for items without classes.
        amount: a share below 1 (float; at least one item unless 0) or a number of items (int).
        seed: of the permutation; the result depends on nothing else.
        key: the pipeline key that ``amount`` comes from, for messages.
        source: for messages.

    Raises:
        DataError: so many items are asked for that a class would keep none.
    """
    total = len(y)
    number = amount if isinstance(amount, int) else max(1, round(amount * total)) if amount else 0
    counts = np.unique(y, return_counts=True)[1]
    most = total - len(counts)
    if number > most:
        asked = f"{number} items" if isinstance(amount, int) else f"{amount:g} ({number} items)"
        kept = f"each of {len(counts)} classes keeps one" if len(counts) > 1 else "one is left to train on"
        raise DataError(
            f"{source}: {key} is {asked} where the training part has {total}; accepted: up to {most}, so that {kept}; "
            f"lower {key}"
        )
    random = np.random.default_rng(seed)
    quotas = _quotas(counts, number, random)
    by_class = np.split(np.argsort(y, kind="stable"), np.cumsum(counts)[:-1])
    picked = [random.permutation(items)[:quota] for items, quota in zip(by_class, quotas, strict=True)]
    drawn = np.sort(np.concatenate(picked)).astype(np.intp)
    return np.setdiff1d(np.arange(total), drawn, assume_unique=True), drawn


def _quotas(counts: npt.NDArray[np.intp], number: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    spare = counts - 1
    exact = number * counts / counts.sum()
    quotas: npt.NDArray[np.intp] = np.minimum(np.floor(exact).astype(np.intp), spare)
    # The largest remainders get one more; equal ones in an order that the seed decides.
    ties = random.permutation(len(counts))
    while (short := number - int(quotas.sum())) > 0:
        order = ties[np.argsort((quotas - exact)[ties], kind="stable")]
        order = order[quotas[order] < spare[order]]
        quotas[order[:short]] += 1
    return quotas
