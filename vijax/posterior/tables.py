"""Results as pandas data frames that print, and render in notebooks, with what to know of them.

Importing pandas takes most of a second, so that this module is imported where a table is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd

from vijax.posterior import html
from vijax.posterior.table import table, with_error

_MEANING = {
    "certified": "the guide's draws can be used as they are",
    "corrected": "the variational approximation is inaccurate; these estimates use corrected draws",
    "approximate": "accuracy not verified; see report()",
    "failed": "do not use; see report()",
    "prior": "no data are used",
}
_MAX_SHOWN = 10  # scalars of a site up to which a printed summary shows all
_NUM_ENDS = 3  # scalars shown at either end of larger sites


class Table(pd.DataFrame):
    """A data frame that prints with few digits: what pandas derives from the tables below.

    A sorted or filtered summary, a slice, a transpose: all of its rows without any notes.
    """

    _hint = ""  # how to get what is not a column

    @property
    def _constructor(self) -> Callable[..., Any]:
        return Table

    def __repr__(self) -> str:
        rows = self._cells()
        return super().__repr__() if rows is None else table(rows)

    def _repr_html_(self) -> str | None:
        rows = self._cells()
        return super()._repr_html_() if rows is None else html.table(rows)

    def _cells(self) -> list[tuple[str, ...]] | None:
        """The printed rows, the first of them the header; `None` to print as pandas does."""
        most = pd.get_option("display.max_rows") or math.inf
        nested = isinstance(self.index, pd.MultiIndex) or isinstance(self.columns, pd.MultiIndex)
        return None if nested or len(self) > most else self._formatted()

    def _formatted(self) -> list[tuple[str, ...]]:
        """All rows as text, the first of them the header."""
        decimals = self.attrs.get("decimals")
        return [
            ("", *map(str, self.columns)),
            *(
                (str(name), *(_number(value, decimals) for value in values))
                for name, *values in self.itertuples(name=None)
            ),
        ]

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError:
            if isinstance(key, str) and key not in self.columns:
                columns = ", ".join(map(str, self.columns))
                message = f"{key!r} is not a column ({columns}). {self._hint}"
                raise KeyError(message.rstrip()) from None
            raise


class Summary(Table):
    """A posterior summary, a pandas `DataFrame` with a row for every scalar of the posterior.

    Printing abridges large sites; the frame has all rows. It can be used as any other data frame:
    `summary.sort_values("sd")`, `summary.loc["mu", "mean"]`, `summary.to_csv(path)`.

    Columns: `mean` and `sd` of posterior draws, corrected ones where the status is `"corrected"`;
    the ends of the equal-tailed interval, by default `5.5%` and `94.5%`; `mcse`, the Monte Carlo
    standard error of `mean`; and `guide_mean` and `guide_sd` of the guide's draws. The index has
    names such as `theta[3]`.
    """

    _hint = "Rows are selected by .loc['mu'], those of one site by posterior.summary('theta')."

    @property
    def status(self) -> str:
        """The posterior's status; of a prior, `"prior"`."""
        return str(self.attrs["status"])

    @property
    def ci_prob(self) -> float:
        """Probability of the equal-tailed interval."""
        return float(self.attrs["ci_prob"])

    @property
    def _meaning(self) -> str:
        """What the status says of these numbers, and remarks on the model."""
        return "; ".join([_MEANING[self.status], *self.attrs.get("remarks", ())])

    def __repr__(self) -> str:
        return f"{super().__repr__()}\nstatus: {self.status} ({self._meaning})"

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}<p>{html.badge(self.status)} {escape(self._meaning)}</p>"

    def _cells(self) -> list[tuple[str, ...]]:
        """The rows, only the first and the last ones of sites with many."""
        shown: list[int] = []
        notes = []
        names = enumerate(map(str, self.index))
        for site, group in itertools.groupby(names, lambda pair: pair[1].partition("[")[0]):
            rows = [row for row, _ in group]
            if len(rows) > _MAX_SHOWN:
                note = f"{site}: {len(rows) - 2 * _NUM_ENDS} more"
                notes.append((len(shown) + _NUM_ENDS, note))
                rows = rows[:_NUM_ENDS] + rows[-_NUM_ENDS:]
            shown += rows
        header, *lines = self.iloc[shown]._formatted()
        for row, note in reversed(notes):
            lines.insert(row, (note, *[""] * (len(header) - 1)))
        return [header, *lines]


def _number(value: Any, decimals: int | None = None) -> str:
    """A number as text, with three significant digits unless `decimals` are given."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if decimals is not None:
        return f"{value:.{max(decimals, 0)}f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


class Scores(Table):
    """Scores of predictions, a pandas `DataFrame` with a row for each and columns `value`, `se`."""

    _hint = "Scores are selected by .loc['log score']."

    def _cells(self) -> list[tuple[str, ...]]:
        rows = zip(map(str, self.index), self["value"], self["se"], strict=True)
        return [("", "value"), *((name, with_error(v, se)) for name, v, se in rows)]


class Comparison(Table):
    """A comparison of models, a pandas `DataFrame` with a row for each, the best one first.

    Columns, all but the last three in nats:

    - `log_evidence`, the log marginal likelihood, and `log_evidence_se`, its standard error;
    - `log_bayes_factor`, its difference from the largest, and `log_bayes_factor_se`;
    - `elpd`, the expected log predictive density of a new data set by PSIS leave-one-out, or by
      the folds of `vijax.cross_validate`, and `elpd_se`, its standard error over observations;
    - `elpd_diff`, its difference from the largest, and `elpd_diff_se`, the standard error of this
      difference over paired observations;
    - `p_loo`, the effective number of parameters;
    - `num_bad_k`, observations whose Pareto k-hat is too large for `elpd` to be reliable (of
      cross-validation, also those whose fold's fit is neither certified nor corrected);
    - `weight`, the stacking weight.

    Without pointwise likelihoods the columns from `elpd` on are `nan`, and the order is that of the
    evidence. `print` joins every figure with its standard error.
    """

    _hint = "Models are selected by .loc['name']."

    @property
    def advice(self) -> str:
        """Why there is no `elpd`, or what to do where it is unreliable; empty otherwise."""
        return str(self.attrs.get("advice", ""))

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.advice}".rstrip()

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}{html.paragraph(self.advice) * bool(self.advice)}"

    def _cells(self) -> list[tuple[str, ...]]:
        """Every figure with its standard error, without columns that are `nan` throughout."""
        known = [name for name in self.columns if not self[name].isna().all()]
        shown = [name for name in known if not name.endswith("_se")]
        rows = [("", *shown)]
        for label, row in self.iterrows():
            cells = (
                with_error(row[name], row[f"{name}_se"])
                if f"{name}_se" in known
                else f"{row[name]:.{0 if name == 'num_bad_k' else 2}f}"
                for name in shown
            )
            rows.append((str(label), *cells))
        return rows
