"""Builds targets, log densities over unconstrained space, from NumPyro model functions."""

from vijax.model.build import build, build_marginalized
from vijax.model.concrete import split_and_build
from vijax.model.data_checks import check_data
from vijax.model.fitted_values import Growing
from vijax.model.from_pymc import from_pymc
from vijax.model.from_tfp import from_tfp
from vijax.model.index_checks import check_indices
from vijax.model.init_strategies import init_strategy
from vijax.model.log_density import from_log_density
from vijax.model.minibatch.additivity import check_batches
from vijax.model.minibatch.subsampling import (
    BatchRequest,
    batch_request,
    check_sources,
    fetch,
)
from vijax.model.nuts import run_nuts
from vijax.model.predictive import predictive_program
from vijax.model.prior import build_prior
from vijax.model.remarks import Remarks, model_remarks
from vijax.model.rows.analysis import RowModel, SharedState, row_model
from vijax.model.rows.checks import check_rows
from vijax.model.rows.limits import index_limits
from vijax.model.rows.predictive import out_axes, predict_rows
from vijax.model.rows.statistics import Statistic, check_statistic
from vijax.model.sharding import shard_data, shard_target
from vijax.model.tracing.arguments import (
    Arguments,
    Call,
    ModelCall,
    bound_arguments,
    split,
    unwrap,
)
from vijax.model.tracing.labelled_call import own_coords

__all__ = [
    "Arguments",
    "BatchRequest",
    "Call",
    "Growing",
    "ModelCall",
    "Remarks",
    "RowModel",
    "SharedState",
    "Statistic",
    "batch_request",
    "bound_arguments",
    "build",
    "build_marginalized",
    "build_prior",
    "check_batches",
    "check_data",
    "check_indices",
    "check_rows",
    "check_sources",
    "check_statistic",
    "fetch",
    "from_log_density",
    "from_pymc",
    "from_tfp",
    "index_limits",
    "init_strategy",
    "model_remarks",
    "out_axes",
    "own_coords",
    "predict_rows",
    "predictive_program",
    "row_model",
    "run_nuts",
    "shard_data",
    "shard_target",
    "split",
    "split_and_build",
    "unwrap",
]
