"""Counter-based random numbers: a pure function of whole numbers, the same bits on every machine.

splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) needs only
64-bit addition, multiplication, shift and exclusive or, so numpy gives it vectorised and without state.
"""

import numpy as np
from jaxtyping import Float, Int, UInt64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def mix(state: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Finaliser of splitmix64: a bijection of 64-bit words whose output bits look independent. Same shape."""
    mixed = state >> np.uint64(30)
    mixed ^= state
    mixed *= _MULTIPLIERS[0]
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MULTIPLIERS[1]
    mixed ^= mixed >> np.uint64(31)
    return mixed


def words(*counters: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
    """Hash whole-number counters, broadcast together, to one 64-bit word each. Order of the counters matters.

    ``words(seed, index, position)`` is output number ``position`` of a splitmix64 stream that starts from the
    hash of (seed, index). Counters are taken modulo 2**64. At least one must be given.
    """
    state: np.ndarray = np.zeros(1, np.uint64)
    for counter in counters:
        if isinstance(counter, int):
            counter = np.array([counter & _WORD], np.uint64)
        # arrays (never scalars) wrap around silently, which is what modulo 2**64 asks for
        state = mix(state + (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return state


def uniform(word: UInt64[np.ndarray, "..."], low: float = 0.0, high: float = 1.0) -> Float[np.ndarray, "..."]:
    """Words to float64 in [low, high): the top 53 bits, scaled exactly."""
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53 * (high - low) + low


def below(word: UInt64[np.ndarray, "..."], bound: int | np.ndarray) -> Int[np.ndarray, "..."]:
    """Words to int64 in [0, bound), 1 <= bound <= 2**31; no outcome is off its chance by more than 2**-32."""
    limit = np.asarray(bound).astype(np.uint64)
    scaled = (word >> np.uint64(32)) * limit
    scaled >>= np.uint64(32)
    return scaled.view(np.int64)  # below 2**31: the same number
