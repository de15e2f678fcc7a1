"""Runs LDA in scikit-learn: `python by_sklearn.py DATA.npz TOPICS PASSES METHOD ALPHA ETA`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
DATA.npz is a matrix of counts in CSR form. PASSES are numbers of passes, as `1,2,4`: after each,
`factors.npz`, beside DATA.npz, has the parameters of the topics. METHOD is "batch" or "online".
The last line is JSON.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import LatentDirichletAllocation


def run(path, num_topics, passes, method, alpha, eta):
    data = np.load(path)
    matrix = csr_matrix((data["counts"], data["words"], data["indptr"]), data["shape"])
    model = LatentDirichletAllocation(
        num_topics,
        doc_topic_prior=alpha,
        topic_word_prior=eta,
        learning_method=method,
        batch_size=2048,
        evaluate_every=-1,
        n_jobs=1 if method == "batch" else 2,
        random_state=0,
    )
    seconds, topics, done = [], [], 0
    if method == "batch":
        for target in passes:
            start = time.perf_counter()
            model.set_params(max_iter=target).fit(matrix)
            seconds.append(time.perf_counter() - start)
            topics.append(model.components_)
    else:
        model.set_params(total_samples=matrix.shape[0])
        elapsed = 0.0
        for target in passes:
            start = time.perf_counter()
            for _ in range(target - done):
                model.partial_fit(matrix)
            elapsed, done = elapsed + time.perf_counter() - start, target
            seconds.append(elapsed)
            topics.append(model.components_.copy())
    np.savez(
        Path(path).with_name("factors.npz"),
        topics=topics,
        alpha=np.full(num_topics, model.doc_topic_prior_),
    )
    return {"seconds": seconds, "passes": passes, "version": metadata.version("scikit-learn")}


if __name__ == "__main__":
    _, path, num_topics, passes, method, alpha, eta = sys.argv
    passes = [int(one) for one in passes.split(",")]
    print(json.dumps(run(path, int(num_topics), passes, method, float(alpha), float(eta))))
