"""Whether a model is latent Dirichlet allocation, and its counts of words by documents.

The three ways to write it: `Multinomial(total, probs=theta @ beta)` of dense counts by document,
`Categorical((theta @ beta)[document])` of tokens, and tokens whose topics are a discrete site. A
row of probabilities is one of `theta @ beta`, at any index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.discrete import CategoricalProbs, MultinomialProbs

from vijax.contracts import Batch
from vijax.contracts.conjugate import WordCounts
from vijax.model.conjugacy.interpreter import full_array
from vijax.model.conjugacy.reader import Reader, Reading, bases
from vijax.model.conjugacy.values import (
    Atom,
    Axis,
    Entry,
    Index,
    Known,
    Labels,
    Polynomial,
    Value,
    is_number,
)
from vijax.model.discrete.enumeration import EnumerationPlan


class _Rows(NamedTuple):
    """Which row of `theta @ beta` each observed element has.

    Attributes:
        documents: the site `theta`.
        topics: the site `beta`.
        rows: numbers of the documents, over the batch of the observed site.
    """

    documents: str
    topics: str
    rows: np.ndarray


def word_counts(reader: Reader, plan: EnumerationPlan, batch: Batch) -> WordCounts | None:
    """The data of latent Dirichlet allocation, `None` of any other model.

    Args:
        reader: reads the model at its two latent sites.
        plan: of its discrete sites.
        batch: the data, not traced.
    """
    if len(reader.sites) != 2 or len(plan.variables) > 1:
        return None
    if any(
        reader.supports[site.name] != "simplex" or len(site.shape) != 2 for site in reader.sites
    ):
        return None
    readings, _ = reader.read(batch, {})
    latent = {*plan.variables, *(site.name for site in reader.sites)}
    observed = [name for name in readings if name not in latent]
    if len(observed) != 1 or any(each.plate_scale != 1 for each in readings.values()):
        return None
    found: _Rows | None
    if plan.variables:
        (label,) = plan.variables
        shape = tuple(axis.size for axis in readings[label].value.dims)
        states = np.random.default_rng(0).integers(0, plan.variables[label].size, shape)
        readings, _ = reader.read(batch, {label: states})
        found = _of_labels(readings[label], readings[observed[0]], states)
    else:
        found = _of_sums(readings[observed[0]])
    return None if found is None else _counts(found, readings, readings[observed[0]])


def _of_sums(reading: Reading) -> _Rows | None:
    """Of probabilities `sum_k theta_ik beta_kj`, along `j`."""
    probs = _probs(reading, (CategoricalProbs, MultinomialProbs))
    atoms = _atoms(probs)
    if probs is None or len(atoms) != 2:
        return None
    for theta, beta in (atoms, atoms[::-1]):
        (document, topic), (same, word) = theta.entries, beta.entries
        ((summed,),) = [tuple(term.summed) or (None,) for term in probs.terms or ()]
        if topic is same is summed and word is probs.dims[-1]:
            return _rows(theta.site, beta.site, document, probs.dims[:-1])
    return None


def _of_labels(label: Reading, reading: Reading, states: np.ndarray) -> _Rows | None:
    """Of labels with probabilities `theta_i` and words with `beta_z`, at some labels `z`."""
    probs, of_words = (_probs(each, (CategoricalProbs,)) for each in (label, reading))
    thetas, betas = _atoms(probs), _atoms(of_words)
    if probs is None or of_words is None or len(thetas) != 1 or len(betas) != 1:
        return None
    (theta,), (beta,) = thetas, betas
    topics = _integers(beta.entries[0], of_words.dims[:-1])
    if topics is None or not np.array_equal(topics, states):
        return None
    if theta.entries[1] is not probs.dims[-1] or beta.entries[1] is not of_words.dims[-1]:
        return None
    return _rows(theta.site, beta.site, theta.entries[0], probs.dims[:-1])


def _probs(reading: Reading, kinds: tuple[type, ...]) -> Polynomial | None:
    fn = reading.fn
    while isinstance(fn, (dist.ExpandedDistribution, dist.MaskedDistribution)):
        fn = fn.base_dist
    probs = reading.arguments[0].get("probs") if isinstance(fn, kinds) else None
    return probs if isinstance(probs, Polynomial) else None


def _atoms(probs: Polynomial | None) -> tuple[Atom, ...]:
    """The sites that probabilities are a product of; nothing else is in them."""
    if probs is None or probs.terms is None or len(probs.terms) != 1 or probs.terms[0].factors:
        return ()
    atoms = probs.terms[0].atoms
    plain = all(a.kind == "power" and a.power == 1 and len(a.entries) == 2 for a in atoms)
    return atoms if plain and len(probs.terms[0].summed) == len(atoms) - 1 else ()


def _rows(documents: str, topics: str, entry: Entry, dims: Labels) -> _Rows | None:
    rows = _integers(entry, dims)
    return None if rows is None or documents == topics else _Rows(documents, topics, rows)


def _integers(entry: Entry, dims: Labels) -> np.ndarray | None:
    """An index as integers, over some dimensions."""
    if isinstance(entry, Axis):
        entry = Index(np.arange(entry.size), (entry,))
    inside = set(entry.labels) <= set(dims)
    return _numbers(Known(dims, entry.array, entry.labels)) if inside else None


def _numbers(value: Value | None) -> np.ndarray | None:
    """The array of a value that is known."""
    if isinstance(value, Known) and is_number(value.array):
        return np.asarray(full_array(value))
    return None


def _counts(found: _Rows, readings: Mapping[str, Reading], reading: Reading) -> WordCounts | None:
    """The entries of the observed site that are not masked, times its scale."""
    value = _numbers(reading.value)
    alpha, eta = (_concentration(readings[name]) for name in (found.documents, found.topics))
    if value is None or alpha is None or eta is None or reading.inner_mask is not None:
        return None
    weight = np.ones(found.rows.shape)
    for each in (reading.scale, reading.mask):
        array = np.ones(()) if each is None else _numbers(each)
        if array is None:
            return None
        weight = weight * np.asarray(array, float)
    if value.ndim == weight.ndim:
        entries = found.rows.ravel(), value.ravel(), weight.ravel()
    else:  # counts of all words
        places = np.nonzero(value)
        entries = found.rows[places[:-1]], places[-1], value[places] * weight[places[:-1]]
    number = readings[found.documents].value.dims[0].size
    return WordCounts(found.documents, found.topics, number, *entries, alpha, eta)


def _concentration(reading: Reading) -> np.ndarray | None:
    """The parameters of a Dirichlet prior, averaged over its batch."""
    (*_, arguments) = reading.arguments
    if not isinstance(bases(reading.fn)[0], dist.Dirichlet):
        return None
    found = _numbers(arguments["concentration"])
    return None if found is None else found.reshape(-1, found.shape[-1]).mean(axis=0)
