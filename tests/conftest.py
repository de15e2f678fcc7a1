"""Settings that must be in place before anything imports NumPy, JAX or matplotlib."""

import os
import signal
from importlib.metadata import version

import pytest

os.environ["MPLBACKEND"] = "Agg"

# No test depends on what another one, or an earlier version, has compiled. Within one run compiled
# programs on disk save 7 % of the processor time, in a second run a quarter: to repeat tests, set
# a folder.
os.environ.setdefault("VIJAX_CACHE", "0")

# A process that was started in the background ignores Ctrl-C, and tests send it to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each worker of `pytest -n` gets its share of the cores. Left alone, the BLAS of NumPy and SciPy
# starts a thread per core in every worker, and they spin: two workers on two cores took from 4 to
# 100 times longer over small eigenvalue problems. XLA's own threads made no measurable difference.
if "PYTEST_XDIST_WORKER" in os.environ:
    _share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, str(max(1, _share)))

# Half to two thirds of the time of most tests is XLA's compiler. Its older way of fusing loops on
# CPUs and no optimization by LLVM halve what such tests take (docs/decisions.md). XLA ends the
# process at a flag that it does not know, so only releases where this was tried get these. Whoever
# sets XLA_FLAGS decides.
_FAST = {
    "0.10": "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0",
    "0.12": "--xla_backend_optimization_level=0",
}
_release = ".".join(version("jaxlib").split(".")[:2])
if _release in _FAST:
    os.environ.setdefault("XLA_FLAGS", _FAST[_release])

# Their asserts are the tests' asserts: let pytest explain them in the same way.
pytest.register_assert_rewrite("tests.laws", "tests.targets")
