"""Topics of texts: 1,500 pages of reference, and whether topics find what package they are from.

The docstrings of the functions and classes of scipy and scikit-learn, a short text each, by latent
Dirichlet allocation (Blei, Ng and Jordan, 2003) and a hierarchical Dirichlet process (Teh, Jordan,
Beal and Blei, 2006). How many topics is decided by the perplexity of held-out texts. Which package
a text is from is known, and not used by the fit.
"""

import importlib
import re

import numpy as np
from common import BLUE, ORANGE, options, save
from sklearn import decomposition
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.model_selection import train_test_split

import vijax.plot
from vijax.estimators import HierarchicalDirichletProcess, LatentDirichletAllocation

SHOWN, STOPS = 7, ENGLISH_STOP_WORDS | {"array", "like", "ndarray", "optional", "default"}
PACKAGES = """scipy.cluster.hierarchy scipy.fft scipy.integrate scipy.interpolate scipy.linalg
scipy.ndimage scipy.optimize scipy.signal scipy.sparse scipy.spatial scipy.special
scipy.stats sklearn.datasets sklearn.ensemble sklearn.linear_model sklearn.metrics"""


def load():
    """Texts without examples and references, and the packages they are from."""
    texts = {}
    for package in PACKAGES.split():
        module = importlib.import_module(package)
        for name in module.__all__:
            text = getattr(getattr(module, name), "__doc__", None) or ""
            text = re.split(r"\n *(?:Examples?|References)\n", text)[0]
            if len(text) > 300:
                texts.setdefault(text, package)
    return list(texts), np.array(list(texts.values()))


def packages_of(share, package):
    """The package with the largest share of each topic, of `share`, `(texts, topics)`."""
    kinds = np.unique(package)
    return kinds[np.argmax([share[package == name].sum(0) for name in kinds], axis=0)]


def main():
    short = options(__doc__).short
    texts, package = load()
    words = {"stop_words": list(STOPS), "token_pattern": "[a-z]{3,}"}
    vectorizer = CountVectorizer(**words, min_df=5, max_df=0.2)
    counts = vectorizer.fit_transform(texts)
    names = vectorizer.get_feature_names_out()
    parts = train_test_split(counts, package, test_size=0.2, random_state=0)
    fit, test, from_fit, from_test = parts
    print(f"{counts.shape[0]} texts, {counts.shape[1]} words, {counts.sum()} tokens")

    numbers = [1, 5, 20] if short else [1, 5, 20, 80]
    found = {}
    print(f"\n{'held-out perplexity':24} {'topics':>6}")
    for k in numbers:
        found[k] = LatentDirichletAllocation(k, random_state=0).fit(fit)
        print(f"{'LDA':24} {k:6} {found[k].completion_perplexity(test):6.0f}")
    hdp = HierarchicalDirichletProcess(max(numbers), random_state=0).fit(fit)
    used = hdp.n_components_in_use_
    print(f"{'HDP':24} {used:6} {hdp.completion_perplexity(test):6.0f}")

    lda = found[20]
    other = decomposition.LatentDirichletAllocation(20, random_state=0).fit(fit)
    print(f"\n{'packages found, held out':24}")
    for name, topics in (("vijax", lda), ("scikit-learn", other)):
        guess = packages_of(topics.transform(fit), from_fit)[topics.transform(test).argmax(1)]
        print(f"{name:24} {np.mean(guess == from_test):6.3f}")
    largest = max(np.mean(from_test == name) for name in set(package))
    print(f"{'always the largest':24} {largest:6.3f}\n")
    share = lda.transform(fit)
    of_topic = packages_of(share, from_fit)
    words = lda.top_words(names, n_words=8)
    order = np.argsort(-share.sum(0))
    for k in order[:SHOWN]:
        print(f"{of_topic[k]:24} {', '.join(word for word, _ in words[k])}")

    # the last panel is free
    figure = vijax.plot.topics([words[k] for k in order[:SHOWN]])
    *panels, axes = figure.axes
    for panel, k in zip(panels, order, strict=False):
        panel.set_title(of_topic[k])
    axes.set_visible(True)
    curve = [found[k].completion_perplexity(test) for k in numbers]
    axes.semilogx(numbers, curve, "o-", ms=4, color=BLUE, label="LDA")
    axes.plot(used, hdp.completion_perplexity(test), "o", ms=6, color=ORANGE, label="HDP")
    axes.set_xticks(numbers, numbers)
    axes.minorticks_off()
    axes.set(title="held-out perplexity", xlabel="topics")
    axes.legend()
    save(figure, "topics")


if __name__ == "__main__":
    main()
