"""NumPyro model functions become targets over unconstrained space."""

from vijax.model.additivity import check_batches
from vijax.model.arguments import Arguments, split, unwrap
from vijax.model.choosing import built
from vijax.model.data import check_data
from vijax.model.density import from_log_density
from vijax.model.minibatch import check_sources, fetch, request
from vijax.model.nuts import run_nuts
from vijax.model.predict import predictor
from vijax.model.sharding import shard, spread
from vijax.model.strategies import init_strategy
from vijax.model.target import build

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
