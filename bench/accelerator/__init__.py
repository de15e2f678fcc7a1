"""The sections of `bench.device`; each is a function from `Sizes` to measurements by name."""
