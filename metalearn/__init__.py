"""Few-shot benchmarks of Guided-VAE features: extractors, learners, paired statistics, reports."""

import os

__version__ = "0.1.0"

# Threads of torch that wait for each other sleep instead of spinning. On a machine that also does something else,
# spinning made a training step 2 to 30 times slower (benchmarks/waiting.py); alone it gains nothing that was measured.
# It counts only before torch is imported; a value that is set already is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
