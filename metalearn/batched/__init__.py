"""A network with other weights for every task of a batch, run on all tasks at once: ordinary autograd, any order."""
