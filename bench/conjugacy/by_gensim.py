"""Runs LDA in gensim: `python by_gensim.py DATA.npz TOPICS PASSES WORKERS`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
DATA.npz is a matrix of counts in CSR form. PASSES are numbers of passes, as `1,2,4`: after each,
`factors.npz`, beside DATA.npz, has the expected topics. The last line is JSON.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from gensim.matutils import Sparse2Corpus
from gensim.models import LdaMulticore
from scipy.sparse import csr_matrix


def run(path, num_topics, passes, workers):
    data = np.load(path)
    matrix = csr_matrix((data["counts"], data["words"], data["indptr"]), data["shape"])
    corpus = Sparse2Corpus(matrix.astype(float), documents_columns=False)
    rows = list(corpus)  # in memory, as gensim's documentation advises for speed
    words = {i: str(i) for i in range(matrix.shape[1])}
    model, seconds, topics, done = None, [], [], 0
    for target in passes:
        start = time.perf_counter()
        if model is None:
            model = LdaMulticore(
                rows,
                num_topics=num_topics,
                id2word=words,
                workers=workers,
                passes=target,
                eval_every=None,
                random_state=0,
            )
        else:
            model.passes = target - done
            model.update(rows)
        seconds.append(time.perf_counter() - start + (seconds[-1] if seconds else 0))
        topics.append(model.get_topics())
        done = target
    np.savez(Path(path).with_name("factors.npz"), topics=topics, alpha=model.alpha)
    return {"seconds": seconds, "passes": passes, "version": metadata.version("gensim")}


if __name__ == "__main__":
    _, path, num_topics, passes, workers = sys.argv
    passes = [int(one) for one in passes.split(",")]
    print(json.dumps(run(path, int(num_topics), passes, int(workers))))
