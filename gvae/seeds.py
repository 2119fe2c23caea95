"""Randomness as a function of numbers: the seed of a step's noise or of an epoch's order."""

import torch


def mix(*numbers: int) -> int:
    """Hash integers to 63 bits (splitmix64's finaliser): the seed of a step's noise or an epoch's order."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def seeded(device: torch.device | str, *numbers: int) -> torch.Generator:
    """Return a generator on a device, seeded by all of the numbers: seed, kind of randomness, step."""
    return torch.Generator(device).manual_seed(mix(*numbers))
