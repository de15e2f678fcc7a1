"""Report of a fit: its diagnostics as text, and as HTML in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from vijax.posterior import html
from vijax.posterior.diagnostics import FitDiagnostics
from vijax.posterior.latents import REMEDIES
from vijax.posterior.table import table

_MAX_ROWS = 10  # coordinates in the table
_LONG = 80  # characters of a sentence that is printed in one line
_CORRECTIONS = (
    "effect of the corrections by unconstrained coordinate, shifts in sds, largest first:"
)


class Report(str):
    """The report of a fit, a `str` that a notebook renders in sections.

    Args:
        diagnostics: of the fit.
    """

    diagnostics: FitDiagnostics

    def __new__(cls, diagnostics: FitDiagnostics) -> Report:
        """The report as text."""
        lines = [_line(name, _broken(value)) for name, value in _facts(diagnostics)]
        lines += [f"- {_broken(reason)}" for reason in diagnostics.reasons]
        rows = _rows(diagnostics)
        lines += ["", _CORRECTIONS, table(rows)] if rows else []
        lines += ["", f"next: {diagnostics.advice}"] if diagnostics.advice else []
        report = super().__new__(cls, "\n".join(lines))
        report.diagnostics = diagnostics
        return report

    def __getnewargs__(self) -> Any:
        return (self.diagnostics,)

    def _repr_html_(self) -> str:
        found, (_, *facts) = self.diagnostics, _facts(self.diagnostics)
        parts = [f"<p>{html.badge(found.status)} {'; '.join(map(escape, found.remarks))}</p>"]
        parts.append(html.facts(facts))
        parts += [html.heading("Diagnostics"), html.items(self.diagnostics.reasons)]
        rows = _rows(self.diagnostics)
        parts += (
            [html.heading(_CORRECTIONS.capitalize().rstrip(":")), html.table(rows)] if rows else []
        )
        advice = self.diagnostics.advice
        parts += [html.heading("Next"), html.paragraph(advice)] if advice else []
        return "".join(parts)


def overview(found: FitDiagnostics) -> str:
    """HTML of a posterior in a few lines: status, guide, ELBO, k-hat, time, and how to go on."""
    shown = [fact for fact in _facts(found) if fact[0] in ("guide", "ELBO", "log evidence")]
    if not math.isnan(found.khat):
        ess = f"importance ESS {found.ess:.0f} of {found.num_draws}"
        shown.append(("k-hat", f"{found.khat:.2f}, {ess}"))
    shown.append(("time", _time(found)))
    shown += [("next", found.advice)] if found.advice else []
    methods = html.code("report()", "summary()", "sample()", "predict()")
    remarks = "; ".join(map(escape, found.remarks))
    title = f"<p><b>Posterior</b> {html.badge(found.status)} {remarks}</p>"
    return f"{title}{html.facts(shown)}<p>Go on with {methods}.</p>"


def _line(name: str, value: str) -> str:
    """A fact with its name; without one it continues the fact before."""
    return f"{name}: {value}" if name.strip() else f"{name}  {value}"


def _broken(text: str) -> str:
    """A long sentence of several clauses with a line for each."""
    return text if len(text) < _LONG else text.replace("; ", ";\n  ")


def _facts(found: FitDiagnostics) -> Iterator[tuple[str, str]]:
    """Status, guide, optimization, ELBO, evidence and discrete sites."""
    remarks = "; ".join(found.remarks)
    yield "status", f"{found.status} ({remarks})" if remarks else found.status
    yield "guide", f"{found.guide}, {found.dim} dimension{'s' * (found.dim != 1)}"
    for number, line in enumerate(found.plan):
        yield "plan" if number == 0 else "    ", line
    yield "stopped", found.stop_reason
    yield "time", _time(found)
    if not math.isnan(found.elbo):  # particles have none
        yield "ELBO", f"{found.elbo:.3f} ± {found.elbo_se:.2g} nats"
    if math.isinf(found.log_evidence_se):
        bound = f"above the ELBO of {found.elbo:.3f} nats; not estimated, see k-hat"
        yield "log evidence", bound
    elif not math.isnan(found.log_evidence):
        yield "log evidence", f"{found.log_evidence:.3f} ± {found.log_evidence_se:.2g} nats"
    if not math.isnan(found.ep_log_evidence):
        value = f"{found.ep_log_evidence:.4f} nats, an approximation and not a bound"
        yield "log evidence by expectation propagation", value
    if found.latents is not None:
        yield "latents", str(found.latents)
        if found.latents.collapsed:
            yield "       ", REMEDIES
    if found.marginalized:
        sites = ", ".join(f"{name} ({num} values)" for name, num in found.marginalized.items())
        yield "discrete sites, marginalized exactly", sites
    if found.discrete:
        named = (f"{name} ({n or 'countably many'} values)" for name, n in found.discrete.items())
        gradients = found.discrete_gradients
        yield "discrete sites, in the guide", ", ".join(named) + (gradients and f"; {gradients}")


def _time(found: FitDiagnostics) -> str:
    seconds = f"{found.seconds:.1f} s"
    return seconds if found.timing is None else f"{seconds}: {found.timing}"


def _rows(found: FitDiagnostics) -> list[tuple[str, ...]]:
    """The largest corrections, with standard errors; empty if there are none."""
    labels, columns = found.changes
    shown = [name for name in columns if not name.endswith("_se")]
    rows = [("coordinate", *shown)] if labels else []
    for i, label in enumerate(labels[:_MAX_ROWS]):
        cells = []
        for name in shown:
            cell = f"{columns[name][i]:{'+' if name.endswith('shift') else ''}.3f}"
            error = columns.get(f"{name}_se")
            cells.append(cell if error is None else f"{cell} ± {error[i]:.3f}")
        rows.append((label, *cells))
    return rows
