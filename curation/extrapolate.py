"""From a random sample of sources to all of them: a total, and a range that covers the truth nine times in ten.

Sources are resampled, not clips: clips of a source are alike, and a few long sources hold much of the video.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
# Of the studentised bootstrap. 5 and 95 % are right for large samples. With 20 to 100 sources of heavy-tailed length
# those were measured to cover the truth in 74 to 93 % of cases, as it is more often larger, and these in 81 to 96 %.
LOWEST, HIGHEST = 0.02, 0.96
NONE_SEEN = 0.05  # chance to draw no source that has any, at the share that is taken for the most there may be


@dataclass(frozen=True)
class Range:
    """A total over all sources. low, high: 90 % range."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Range":
        return Range(factor * self.value, factor * self.low, factor * self.high)

    def rounded(self) -> "Range":
        """Of things that come whole."""
        return Range(*(float(np.round(value)) for value in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Sample:
    """Sources drawn at random, all alike likely.

    sizes: of those drawn, in bytes, or ones where sizes aren't known. total: of the sizes of all `count` sources.
    """

    sizes: np.ndarray
    total: float
    count: int

    @property
    def rest(self) -> float:
        """Size of what wasn't drawn."""
        return max(0.0, self.total - self.sizes.sum())

    def estimate(self, values: Sequence[float] | np.ndarray) -> float:
        """The total over all sources of something that those drawn have `values` of, by its ratio to their size."""
        values = np.asarray(values, float)
        return float(values.sum() + self.rest * ratio(values, self.sizes))

    def range(self, values: Sequence[float] | np.ndarray, most: Sequence[float] | np.ndarray | None = None) -> Range:
        """estimate() with its range. most: what the values could at most have been; it bounds what was never seen."""
        values, drawn = np.asarray(values, float), len(self.sizes)
        value, seen = self.estimate(values), float(values.sum())
        if drawn >= self.count:
            return Range(seen, seen, seen)
        if not seen:
            share = 1 - NONE_SEEN ** (1 / drawn)
            return Range(0.0, 0.0, share * self.estimate(most) if most is not None else np.inf)
        if drawn < 2:
            return Range(value, seen, np.inf)
        low, high = self.bootstrap(values, value)
        # Few sources, one of them by far the greatest, send the bootstrap to absurd heights: not all are like that one.
        highest = seen + self.rest * ratio(values[:, None], self.sizes[:, None]).max()
        return Range(value, max(seen, low), min(high, highest))

    def bootstrap(self, values: np.ndarray, value: float) -> tuple[float, float]:
        """The studentised bootstrap of a ratio estimate, with the chance that lies in what wasn't drawn."""
        dice, drawn = np.random.default_rng(0), len(values)
        spread = self.error(values[None], self.sizes[None])[0]
        picked = dice.integers(0, drawn, (RESAMPLES, drawn))
        again, sizes = values[picked], self.sizes[picked]
        residuals = values - ratio(values, self.sizes) * self.sizes
        chance = dice.standard_normal(RESAMPLES) * np.sqrt((self.count - drawn) * variance(residuals))
        estimates = values.sum() + self.rest * ratio(again, sizes) + chance
        errors = self.error(again, sizes)
        usable = errors > 0
        if not usable.any():
            return value, value
        low, high = np.quantile((estimates - value)[usable] / errors[usable], [LOWEST, HIGHEST])
        return float(value - high * spread), float(value - low * spread)

    def error(self, values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(resamples,) standard errors of the total, by linearisation."""
        drawn = values.shape[-1]
        spread = variance(values - ratio(values, sizes)[:, None] * sizes)
        scale = np.divide(self.rest * drawn, sizes.sum(-1), out=np.zeros(len(sizes)), where=sizes.sum(-1) > 0)
        return np.sqrt(spread * (scale**2 / drawn + self.count - drawn))


def ratio(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    sums = sizes.sum(-1)
    return np.divide(values.sum(-1), sums, out=np.zeros_like(sums, float), where=sums > 0)


def variance(residuals: np.ndarray) -> np.ndarray:
    return (residuals**2).sum(-1) / (residuals.shape[-1] - 1)
