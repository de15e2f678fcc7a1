"""Runs LDA in tomotopy: `python by_tomotopy.py DATA.npz TOPICS PASSES WORKERS`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
DATA.npz is a matrix of counts in CSR form. PASSES are numbers of sweeps of Gibbs sampling, as
`10,20`: after each, `factors.npz`, beside DATA.npz, has the topics of the last one. The last line
is JSON.
"""

import itertools
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import tomotopy


def run(path, num_topics, passes, workers):
    data = np.load(path)
    indptr, words, counts = data["indptr"], data["words"], data["counts"]
    model = tomotopy.LDAModel(k=num_topics, seed=0)
    names = [str(i) for i in range(data["shape"][1])]
    for start, end in itertools.pairwise(indptr):
        tokens = np.repeat(words[start:end], counts[start:end])
        if len(tokens):
            model.add_doc([names[i] for i in tokens])
    seconds, topics, alphas, done, elapsed = [], [], [], 0, 0.0
    for target in passes:
        start = time.perf_counter()
        model.train(target - done, workers=workers)
        elapsed, done = elapsed + time.perf_counter() - start, target
        seconds.append(elapsed)
        found = np.zeros((num_topics, len(names)), np.float32)
        used = [int(name) for name in model.used_vocabs]
        for k in range(num_topics):
            found[k, used] = model.get_topic_word_dist(k)
        topics.append(found)
        alphas.append(model.alpha)
    np.savez(Path(path).with_name("factors.npz"), topics=topics, alpha=alphas)
    return {"seconds": seconds, "passes": passes, "version": metadata.version("tomotopy")}


if __name__ == "__main__":
    _, path, num_topics, passes, workers = sys.argv
    passes = [int(one) for one in passes.split(",")]
    print(json.dumps(run(path, int(num_topics), passes, int(workers))))
