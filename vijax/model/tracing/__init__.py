"""One run of a model function: every site's value, its log density, what depends on what."""
