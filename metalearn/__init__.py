"""Few-shot benchmarks of Guided-VAE features: extractors, learners, paired statistics, reports."""

import os

__version__ = "0.1.0"

# Threads of torch that wait for each other spin for 3,000 turns and then sleep. Sleeping at once makes a step alone on
# the machine up to 1.8 times as long; spinning on, torch's default, makes it some twice as long beside other work
# (benchmarks/waiting.py, docs/lab-notes.md). It counts only before torch is imported; what is set already is kept. The
# count is GNU's, as in torch from PyPI; other OpenMPs go by the policy.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
