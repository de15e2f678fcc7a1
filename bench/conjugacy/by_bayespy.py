"""Runs a model in BayesPy: `python by_bayespy.py CASE DATA.npz SWEEPS TOLERANCE ROTATE`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
Its last line is JSON: the ELBO after every sweep, the seconds of all and of the construction.
A negative tolerance runs all SWEEPS. Blocks start at the values in DATA.npz and are updated in the
order in which `VB` has them.
"""

import contextlib
import io
import json
import sys
import time
from importlib import metadata

import numpy as np
from bayespy.inference import VB
from bayespy.inference.vmp.transformations import RotateGaussianARD, RotationOptimizer
from bayespy.nodes import (
    Categorical,
    Dirichlet,
    Gamma,
    Gaussian,
    GaussianARD,
    Mixture,
    SumMultiply,
    Wishart,
)


def normal(data):
    mu, tau = GaussianARD(0, 1e-6), Gamma(1e-6, 1e-6)
    tau.initialize_from_value(float(data["tau"]))
    y = GaussianARD(mu, tau, plates=data["y"].shape)
    y.observe(data["y"])
    return VB(mu, tau, y), ()


def mixture(data):
    y, (components, dim) = data["y"], data["mu"].shape
    weights = Dirichlet(np.ones(components), name="weights")
    z = Categorical(weights, plates=(len(y),), name="z")
    mu = Gaussian(np.zeros(dim), 0.1 * np.identity(dim), plates=(components,), name="mu")
    precision = Wishart(dim + 1.0, np.identity(dim), plates=(components,), name="precision")
    rows = Mixture(z, Gaussian, mu, precision, name="y")
    rows.observe(y)
    for node, key in ((weights, "weights"), (mu, "mu"), (precision, "precision")):
        node.initialize_from_value(data[key])
    return VB(z, weights, mu, precision, rows), ()


def regression(data):
    x, y = data["x"], data["y"]
    w = GaussianARD(0, 0.01, shape=(x.shape[1],), name="w")
    tau = Gamma(1.0, 1.0, name="tau")
    rows = GaussianARD(SumMultiply("i,i", w, x), tau, name="y")
    rows.observe(y)
    tau.initialize_from_value(float(data["tau"]))
    return VB(w, tau, rows), ()


def pca(data):
    y, rank = data["y"], data["c"].shape[1]  # (rows, columns)
    x = GaussianARD(0, 1, shape=(rank,), plates=(len(y), 1), name="x")
    alpha = Gamma(1e-3, 1e-3, plates=(rank,), name="alpha")
    c = GaussianARD(0, alpha, shape=(rank,), plates=(y.shape[1],), name="c")
    tau = Gamma(1e-3, 1e-3, name="tau")
    rows = GaussianARD(SumMultiply("d,d->", x, c), tau, name="y")
    rows.observe(y)
    c.initialize_from_parameters(data["c"], 100.0 * np.ones(data["c"].shape))
    tau.initialize_from_value(float(data["tau"]))
    rotation = RotationOptimizer(RotateGaussianARD(x), RotateGaussianARD(c, alpha), rank)
    return VB(x, alpha, c, tau, rows), (rotation,)


def run(case, data, sweeps, tolerance, rotate):
    started = time.perf_counter()
    inference, rotations = globals()[case](data)
    built = time.perf_counter() - started
    if rotate:
        inference.set_callback(rotations[0].rotate)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        inference.update(repeat=sweeps, tol=tolerance)
    seconds = time.perf_counter() - started
    elbo = inference.L[np.isfinite(inference.L)].tolist()
    return {
        "elbo": elbo,
        "seconds": seconds,
        "sweeps": len(elbo),
        "construction": built,
        "version": metadata.version("bayespy"),
    }


if __name__ == "__main__":
    name, path, number, threshold, turn = sys.argv[1:]
    result = run(name, np.load(path), int(number), float(threshold), turn == "1")
    print(json.dumps(result))
