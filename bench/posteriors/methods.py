"""The methods by name: the module that runs each, and what it is called there."""

METHODS = {
    "vijax auto": ("bench.posteriors.by_vijax", "auto"),
    "vijax meanfield": ("bench.posteriors.by_vijax", "meanfield"),
    "vijax fullrank": ("bench.posteriors.by_vijax", "fullrank"),
    "NumPyro SVI": ("bench.posteriors.by_numpyro", "svi"),
    "NumPyro NUTS": ("bench.posteriors.by_numpyro", "nuts"),
    "BlackJAX Pathfinder": ("bench.posteriors.by_blackjax", "pathfinder"),
}
