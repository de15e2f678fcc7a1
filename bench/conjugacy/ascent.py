"""Coordinate ascent alone, without the diagnostics and draws of a fit."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

from bench.conjugacy.models import Problem
from vijax.contracts import Batch, Solution, Variables
from vijax.guides import Conjugate
from vijax.model import build, split
from vijax.solvers import CoordinateAscent


class Ascent:
    """A problem, and its start: `prepared(options)` runs, `runs` are the seconds of each."""

    def __init__(self, problem: Problem) -> None:
        arguments, data = split(problem.model, problem.args, {})
        target = build(problem.model, arguments)
        self.batch = Batch(data)
        self.guide: Any = Conjugate().bind(target, target.space)
        self.target = self.guide.target
        zeros = {site.name: jnp.zeros(site.z_shape) for site in self.target.space.sites}
        values = self.target.constrain(zeros, self.batch, {}, {})
        values |= {name: jnp.asarray(value, float) for name, value in problem.start.items()}
        location = self.target.unconstrain(values, self.batch, {}, {})
        params = self.guide.init(jax.random.key(0), self.target.space, location, self.batch)
        self.start = Variables(params, {})

    def run(self, solver: CoordinateAscent, seed: int = 0) -> tuple[float, Solution]:
        """Seconds and the solution."""
        key = jax.random.key(seed)
        started = time.perf_counter()
        found = solver.solve(key, self.target, self.guide, self.start, self.batch)
        jax.block_until_ready(found.variables)
        return time.perf_counter() - started, found

    @staticmethod
    def expected(found: Solution, site: str) -> Any:
        """The expected value of a positive site that is a block."""
        return found.variables.guide[site].expectations["value"]
