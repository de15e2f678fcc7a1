"""Methods by name: the module that runs each, and its name there."""

OURS = "vijax auto"
METHODS = {
    OURS: ("bench.peers.by_vijax", "auto"),
    "vijax meanfield": ("bench.peers.by_vijax", "meanfield"),
    "vijax fullrank": ("bench.peers.by_vijax", "fullrank"),
    "NumPyro SVI": ("bench.peers.by_numpyro", "svi"),
    "NumPyro NUTS": ("bench.peers.by_numpyro", "nuts"),
    "BlackJAX Pathfinder": ("bench.peers.by_blackjax", "pathfinder"),
    "BlackJAX mean-field": ("bench.peers.by_blackjax", "meanfield"),
    "flowjax MAF": ("bench.peers.by_flowjax", "maf"),
    "PyMC ADVI": ("bench.peers.by_pymc", "advi"),
    "PyMC FullRankADVI": ("bench.peers.by_pymc", "fullrank_advi"),
    "pymc-extras Pathfinder": ("bench.peers.by_pymc_extras", "pathfinder"),
    "pymc-extras DADVI": ("bench.peers.by_pymc_extras", "dadvi"),
    "Pyro SVI": ("bench.peers.by_pyro", "svi"),
}
# Methods that accept a NumPyro model.
NUMPYRO_MODELS = tuple(METHODS)[:7]
