"""Few-shot benchmarks of Guided-VAE features: extractors, learners, paired statistics, reports."""

import os

__version__ = "0.1.0"

# Threads of torch that wait for each other sleep instead of spinning: alone that costs a training step some percent,
# but beside other work spinning makes it 1.5 to 30 times slower (benchmarks/waiting.py, docs/lab-notes.md). It counts
# only before torch is imported; a value that is set already is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
