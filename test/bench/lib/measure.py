"""What a workload gives back, and the little arithmetic on it."""

import math
import statistics
from dataclasses import dataclass, field


@dataclass
class Row:
    """One line of the table. figures and limits: one of each a round, taken one after the other in that round."""

    workload: str
    unit: str
    figures: list
    limits: list = field(default_factory=list)
    at_least: float = None  # to reach: of the ratio if there are limits, else of the figure
    at_most: float = None
    most_loss: float = None  # to reach: the ratio is lower than 1 by less than this, or its 95 % interval contains 1
    limit: str = ""  # in a few words; the workload's file and README.md have them all
    note: str = ""
    detail: dict = field(default_factory=dict)

    @property
    def ratios(self):
        return [figure / limit for figure, limit in zip(self.figures, self.limits)]

    @property
    def judged(self):
        return self.ratios or self.figures

    @property
    def interval(self):
        """The 95 % interval of the mean of the ratios."""
        ratios = self.ratios
        mean = statistics.fmean(ratios)
        half = student(len(ratios) - 1) * statistics.stdev(ratios) / math.sqrt(len(ratios))
        return mean - half, mean + half

    @property
    def reached(self):
        """None: nothing to reach, only shown."""
        value = statistics.median(self.judged)
        if self.most_loss is not None:
            low, high = self.interval
            return statistics.fmean(self.ratios) > 1 - self.most_loss or low <= 1 <= high
        if self.at_least is not None:
            return value >= self.at_least
        if self.at_most is not None:
            return value <= self.at_most
        return None


def percentile(values, share):
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def student(freedom):
    """The two-sided 95 % quantile of Student's t, by the usual expansion from the normal one: right to 1 % from 3 degrees on."""
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
