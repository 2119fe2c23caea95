"""Classification networks of torchvision by name, as extractors."""

import re

from torch import nn
from torchvision import models

from gvae.nets import ImageShape
from metalearn.construct import drawn_by
from metalearn.errors import UserError, unknown_of_many
from metalearn.networks import FROM_THE_SEED, Network, Pool, take_weights
from metalearn.weights import WeightsFile, fill

CHANNELS = 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")


class Torchvision(Network):
    """A torchvision classification network by name, without its classifier: random, or with weights from a local file.

    ``weights``: the file, or a mapping (`metalearn.weights.WeightsFile`); such a network was pretrained elsewhere and
    says so (labels_used: external). ``training_classes``: names of the dataset's classes that this training saw, so
    that testing on them is refused. ``mean`` and ``std``: ImageNet's where weights are given, else none. Images of one
    channel are repeated to 3. The other options are those of `metalearn.networks.Network`.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        seed: int,
        *,
        name: str,
        weights: str | WeightsFile | None = None,
        size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        layer: str | None = None,
        pool: Pool = "mean",
        training_classes: list[str] | None = None,
    ):
        with drawn_by(seed):
            network = build(name, ported=weights is not None)
        head, said = cut_head(network), FROM_THE_SEED
        if weights is not None:
            said = fill(
                network, weights, heads=(f"{head}.", *AUXILIARY_HEADS), rename=present_name,
                how=f"where there is internet, torchvision.models.get_model({name!r}, weights='DEFAULT') leaves one in "
                "the folder checkpoints of torch.hub.get_dir()",
            )  # fmt: skip
            if mean is None and std is None:
                mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        super().__init__(
            network, image_shape, name=f"torchvision {name}", weights=said, channels=CHANNELS, size=size, mean=mean,
            std=std, layer=layer, pool=pool,
        )  # fmt: skip
        take_weights(self, training_classes, weights, f"torchvision {name}")


def build(name: str, *, ported: bool = False) -> nn.Module:
    """Build a classification network, its weights drawn. UserError for a name that torchvision does not have.

    ``ported``: for weights that torchvision published, where two networks, ported from elsewhere, undo ImageNet's
    normalisation themselves.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(unknown_of_many("torchvision model", name, known))
    options = {"aux_logits": False, "init_weights": True, "transform_input": ported}
    return models.get_model(name, weights=None, **(options if name in WITH_AUXILIARY_HEADS else {}))


def cut_head(network: nn.Module) -> str:
    """Replace the last linear layer or convolution, which gives the classes, by nothing; return its name."""
    name = [name for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    network.set_submodule(name, nn.Identity())
    return name


def present_name(name: str) -> str:
    """Name of a parameter as it is today: torchvision's own files of DenseNets hold ``norm.1`` for ``norm1``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
