"""Topics beside gensim, scikit-learn and tomotopy: time to a perplexity, and the bound.

One evaluator for all: half of the tokens of every test document is predicted from the other half,
with the library's topics and its prior of the topics of a document. Peers run in processes of their
own, by the interpreter in `VIJAX_PEERS_PYTHON` (by default this one).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bench import _report
from bench.conjugacy import peers
from vijax.estimators import HierarchicalDirichletProcess, LatentDirichletAllocation
from vijax.solvers.topics import evaluation
from vijax.solvers.topics.corpus import Counts, Shape, groups_of
from vijax.solvers.topics.evaluation import Completion
from vijax.solvers.topics.training import Rule, State, minibatches, sweep

TOPICS = 100
ETA = 0.01
_TEST = 5_000  # documents
_OURS = (
    # collapsed, alpha, passes, which part of the documents
    ("vijax", True, 0.02, 6, 1),
    ("vijax, bound", False, 0.1, 4, 1),
    ("vijax", True, 0.02, 6, 5),
)
_PEERS = (
    # library, arguments after the number of topics; slow ones with fewer documents
    ("gensim", ("1,2", 2), 5),
    ("tomotopy", ("50,100,150", 2), 5),
    ("sklearn", ("1", "online", 0.1, ETA), 10),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with NAME/NAME.npz of arxiv100k, ap and kos")
    parser.add_argument("--documents", type=int, default=100_000, help="of the large corpus")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("topics") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])
    if options.documents == parser.get_default("documents"):
        _report.save("topics", found)


def read(folder: Path, name: str) -> csr_matrix:
    """Counts of words, documents by words."""
    data = np.load(folder / name / f"{name}.npz")
    size = len((folder / name / "vocab.txt").read_text(encoding="utf-8").splitlines())
    shape = (len(data["indptr"]) - 1, size)
    counts = data["counts"].astype(np.int64)
    return csr_matrix((counts, data["indices"].astype(np.int32), data["indptr"]), shape)


def split(matrix: csr_matrix, num_test: int) -> tuple[csr_matrix, Counts]:
    """Documents in random order: those of the fit, and those of the test."""
    order = np.random.RandomState(1).permutation(matrix.shape[0])
    return matrix[order[num_test:]], Counts.of(matrix[order[:num_test]])


def row(name: str, count: int, passes: int, seconds: float, perplexity: float) -> dict[str, Any]:
    return {
        "": name,
        "documents": count,
        "passes": passes,
        "seconds": round(seconds, 1),
        "seconds a pass, of all": None,
        "perplexity": round(perplexity, 1),
    }


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and perplexities after passes over the large corpus, or over a part of it."""
    matrix, test = split(read(options.folder, "arxiv100k")[: options.documents], _TEST)
    completion = Completion.of(test, np.random.RandomState(5))
    rows = []
    for name, collapsed, alpha, passes, part in _OURS:
        corpus = Counts.of(matrix[: matrix.shape[0] // part])
        rows += ours(name, corpus, matrix.shape[1], completion, collapsed, alpha, passes)
        print(rows[-1], flush=True)
    for library, (passes, *rest), part in _PEERS:
        fewer = matrix[: matrix.shape[0] // part]
        names = {"indptr": fewer.indptr, "words": fewer.indices, "counts": fewer.data}
        arrays = {**names, "shape": np.array(fewer.shape)}
        try:
            run = peers.run(library, arrays, (), (TOPICS, passes, *rest))
        except peers.Skipped as reason:
            print(reason)
            continue
        alphas = np.broadcast_to(run["alpha"], (len(run["passes"]), TOPICS))
        for i, number in enumerate(run["passes"]):
            topics = np.maximum(run["topics"][i].T, 1e-12)
            perplexity = completion.perplexity(topics, alphas[i])
            rows.append(row(library, fewer.shape[0], number, run["seconds"][i], perplexity))
            print(rows[-1], flush=True)
    for each in rows:
        whole = matrix.shape[0] / each["documents"]
        each["seconds a pass, of all"] = round(each["seconds"] / each["passes"] * whole, 2)
    return rows


def ours(
    name: str,
    corpus: Counts,
    num_words: int,
    completion: Completion,
    collapsed: bool,
    alpha: float,
    passes: int,
) -> list[dict[str, Any]]:
    """After every pass; the first one compiles."""
    rng, rows = np.random.RandomState(0), []
    start = time.perf_counter()
    state = State.start(num_words, np.full(TOPICS, alpha), ETA, rng)
    size = -(-corpus.num_documents // (24 if collapsed else 4))
    batches = minibatches(corpus, TOPICS, num_words, size, rng)
    elapsed, rule = time.perf_counter() - start, Rule(collapsed)
    for number in range(1, passes + 1):
        start = time.perf_counter()
        sweep(state, batches, rule)
        elapsed += time.perf_counter() - start
        perplexity = completion.perplexity(state.topics, state.alpha)
        rows.append(row(name, corpus.num_documents, number, elapsed, perplexity))
    return rows


def padding(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The share of words in blocks that are padding."""
    rows = []
    for name in ("ap", "kos", "arxiv100k"):
        corpus = Counts.of(read(options.folder, name))
        groups = list(groups_of(corpus, Shape.of(corpus, TOPICS)))
        words = sum(group.num_blocks * group.words[0].size for group in groups)
        rows.append({"": name, "padding": 1 - len(corpus.words) / words})
    return rows


def bound(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The evidence lower bound of 20 topics, with the same priors and by the same code."""
    matrix = read(options.folder, "ap")
    corpus, alpha, eta, count = Counts.of(matrix), np.full(20, 0.1), 0.05, 30
    start = time.perf_counter()
    found = LatentDirichletAllocation(
        20,
        doc_topic_prior=0.1,
        topic_word_prior=eta,
        collapsed=False,
        max_iter=count,
        tol=0,
        random_state=0,
    ).fit(matrix)
    topics = {f"vijax, {count} passes": (time.perf_counter() - start, found.components_)}
    arrays = {"indptr": matrix.indptr, "words": matrix.indices, "counts": matrix.data}
    arrays["shape"] = np.array(matrix.shape)
    try:
        run = peers.run("sklearn", arrays, (), (20, str(count), "batch", 0.1, eta))
        topics[f"scikit-learn, {count} passes"] = run["seconds"][0], run["topics"][0]
    except peers.Skipped as reason:
        print(reason)
    rows = []
    for name, (seconds, each) in topics.items():
        gamma = evaluation.document_topics(corpus, each.T, alpha, 100, collapsed=False)
        value = evaluation.lower_bound(corpus, each.T, gamma, alpha, eta)
        rows.append({"": name, "seconds": seconds, "bound": value})
    return rows


def process(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The hierarchical Dirichlet process beside numbers of topics, by the same updates."""
    matrix, test = split(read(options.folder, "kos"), 430)
    completion, rows = Completion.of(test, np.random.RandomState(5)), []
    models: dict[str, Any] = {
        f"{count} topics": LatentDirichletAllocation(
            count, validation_fraction=0.1, topic_word_prior=ETA, random_state=0
        )
        for count in (10, 20, 50, 100)
    }
    models["hierarchical Dirichlet process"] = HierarchicalDirichletProcess(
        100, validation_fraction=0.1, topic_word_prior=ETA, random_state=0
    )
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(matrix)
        seconds = time.perf_counter() - start
        perplexity = completion.perplexity(model.components_.T, model.doc_topic_prior_)
        used = getattr(model, "n_components_in_use_", len(model.components_))
        rows.append({"": name, "in use": used, "seconds": seconds, "perplexity": perplexity})
    return rows


def disk(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of one pass over all documents from disk, and whether the topics are the same."""
    matrix = read(options.folder, "arxiv100k")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("indptr", "indices", "data"):
            np.save(Path(folder) / f"{name}.npy", getattr(matrix, name))
        module = "bench.conjugacy.documents_on_disk"
        return [_report.in_fresh_process(module, folder, how) for how in ("disk", "memory")]


SECTIONS = {"scale": scale, "padding": padding, "bound": bound, "process": process, "disk": disk}


if __name__ == "__main__":
    main()
