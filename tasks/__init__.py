"""Few-shot data: packed image stores, named class splits, and the episode sampler."""
