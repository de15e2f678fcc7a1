"""The methods by name: the module that runs each, and what it is called there."""

METHODS = {
    "vijax auto": ("bench.peers.by_vijax", "auto"),
    "vijax meanfield": ("bench.peers.by_vijax", "meanfield"),
    "vijax fullrank": ("bench.peers.by_vijax", "fullrank"),
    "NumPyro SVI": ("bench.peers.by_numpyro", "svi"),
    "NumPyro NUTS": ("bench.peers.by_numpyro", "nuts"),
    "BlackJAX Pathfinder": ("bench.peers.by_blackjax", "pathfinder"),
    "BlackJAX mean-field": ("bench.peers.by_blackjax", "meanfield"),
}
