"""What guidance is: a part that asks for named latent slots and adds terms to the loss of any VAE of the family."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from gvae.augment import Augment
from gvae.batch import Batch, Seen, Terms, plain_settings
from gvae.errors import ModelError
from gvae.vae import VAE


class Setting(NamedTuple):
    """What a part is built for: the network, the number of training classes, and the warp of its images, if any."""

    vae: VAE
    classes: int
    warp: Augment | None


class Part(nn.Module):
    """One way to guide latents. Its constructor's keywords are its options, its weights among them.

    ``labels_used``: none, class or factor. ``factor``: the known factor that it reads, if any. ``warped``: whether it
    needs images that are warped; ``second_view``: whether it needs each image under a second warp too. ``adversary``:
    what reads from latents that should not say it; trained in a phase of its own. ``label``: which part of its kind it
    is, in the names of its terms. ``set_size``: how many images of one class it needs together in a batch;
    ``group_size``: how many such sets of one group of classes. A part with an adversary, or with inhibition apart,
    gives the losses of those phases.

    Where several processes train, images are a process's own and latents those of the whole batch: see ``Batch`` and
    ``Seen``. A loss is a mean over the former or over the latter, and both are right.
    """

    labels_used: str = "none"
    factor: str | None = None
    warped: bool = False
    second_view: bool = False
    set_size: int = 1
    group_size: int = 1
    adversary: nn.Module | None
    label: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.adversary = None  # no registered module: those keep the order in which ``build`` makes them

    @property
    def apart(self) -> bool:
        """Whether inhibition is a phase of its own, as in the release."""
        return False

    @property
    def image_nets(self) -> list[nn.Module]:
        """Its modules that give or take images, hence see a process's own rows and no others."""
        return []

    def slots(self, latents: int, warp: Augment | None) -> dict[str, int]:
        """Return the slots that it asks for and how many of the ``latents`` each takes; ModelError for too many."""
        return {}

    def build(self, setting: Setting) -> None:
        """Build its modules, before weights are drawn."""

    def start(self) -> None:
        """Set weights that must not start at random."""

    def prepare(self, factors: Mapping[str, Tensor]) -> None:
        """Take the factors (n,) of all training images; ModelError where the one that it reads does not fit."""

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (weighted sum, its terms): its share of the main phase's loss."""
        raise NotImplementedError

    def adversary_loss(self, batch: Batch, seen: Seen, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return the loss of its adversary on detached latents ``z``, and its terms."""
        raise NotImplementedError

    def inhibition_loss(self, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return (weighted inhibition, its terms): the encoder against the adversary."""
        raise NotImplementedError

    def pictures(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n c h w"]]:
        """Return what it decodes from latents, named, in [0, 1]: rows of the preview."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the plain settings that its terms are a function of."""
        return {"part": type(self).__name__, **plain_settings(self)}


def places(vae: VAE, slots: Sequence[str]) -> list[slice]:
    """Return where the named slots lie, as ``gvae.vae.take`` reads it. ModelError for none and for one it has not."""
    if not slots or not set(slots) <= set(vae.slots):
        raise ModelError(f"slots {list(slots)}: one or more of {', '.join(vae.slots)}")
    return vae.chosen(slots)


def together(parts: Sequence[Part]) -> tuple[int, int]:
    """Return how many images of one class, and how many classes of one group, the parts need together.

    ModelError where they ask for different numbers, and for classes of a group without sets of a class.
    """
    sets, groups = ({getattr(part, name) for part in parts} - {1} or {1} for name in ("set_size", "group_size"))
    if len(sets) > 1 or len(groups) > 1:
        raise ModelError(
            f"set_size, group_size: parts ask for {sorted(sets)}, {sorted(groups)}; allowed: one number of each"
        )
    set_size, group_size = sets.pop(), groups.pop()
    if group_size > 1 and set_size == 1:
        raise ModelError(f"group_size: given {group_size} with set_size 1; allowed: where a batch has sets of a class")
    return set_size, group_size
