"""NumPyro model functions become targets over unconstrained space."""

from vijax.model.build import build
from vijax.model.data_checks import check_data
from vijax.model.discrete_sites import built
from vijax.model.init_strategies import init_strategy
from vijax.model.log_density import from_log_density
from vijax.model.minibatch.additivity import check_batches
from vijax.model.minibatch.plates import check_sources, fetch, request
from vijax.model.nuts import run_nuts
from vijax.model.predictive import predictor
from vijax.model.sharding import shard, spread
from vijax.model.tracing.arguments import Arguments, split, unwrap

__all__ = [
    "Arguments",
    "build",
    "built",
    "check_batches",
    "check_data",
    "check_sources",
    "fetch",
    "from_log_density",
    "init_strategy",
    "predictor",
    "request",
    "run_nuts",
    "shard",
    "split",
    "spread",
    "unwrap",
]
