"""Few-shot benchmarks of Guided-VAE features: extractors, learners, paired statistics, reports."""

__version__ = "0.1.0"
