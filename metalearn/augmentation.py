"""Augmentation as a config names it: its options are checked by the signature of ``gvae.augment.Augment``."""

from collections.abc import Mapping
from typing import Any

from gvae.augment import Augment
from metalearn.kinds import check_options


def filled_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with every default; UserError or ModelError names the one that is wrong."""
    return Augment(**check_options(Augment, options)).settings()


def build_augment(options: Mapping[str, Any] | None, channels: int) -> Augment | None:
    """Build what a config's ``augmentation`` asks for, None for none; ModelError if the channels forbid it."""
    if options is None:
        return None
    augment = Augment(**check_options(Augment, options))
    augment.check(channels)
    return augment
