"""A network of one's own, named by its class, as an extractor."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gvae.nets import ImageShape
from metalearn.construct import construct
from metalearn.errors import UserError
from metalearn.kinds import TABLES, check_options, load_attribute, load_outside
from metalearn.networks import FROM_THE_SEED, Network, Pool, take_weights
from metalearn.schema import ModelConfig
from metalearn.weights import WeightsFile, fill


class OwnNetwork(Network):
    """A network of one's own, ``network: package.module:Class``: random, or with weights from a local file.

    ``options``: the constructor's. Of ``image_shape``, ``seed`` and ``model`` it is given those that it names. The
    other options are those of `Network`; ``weights`` and ``training_classes`` as for `metalearn.torchvision_models`.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        seed: int,
        model: ModelConfig,
        *,
        network: str,
        options: dict[str, Any] | None = None,
        weights: str | WeightsFile | None = None,
        channels: int | None = None,
        size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        layer: str | None = None,
        pool: Pool = "mean",
        training_classes: list[str] | None = None,
    ):
        build, name = load_outside("network", network), f"network {network}"
        checked = check_options(build, options or {}, TABLES["extractor"].skip, f"{name}: options")
        given = (channels or image_shape[0], size or image_shape[1], size or image_shape[2])
        built = construct(build, checked, image_shape=given, seed=seed, model=model)
        if not isinstance(built, nn.Module):
            raise UserError(f"{name} gives a {type(built).__name__}; allowed: a torch.nn.Module")
        said = FROM_THE_SEED
        if weights is not None:
            said = fill(built, weights, how="write it by torch.save(network.state_dict(), PATH)")
        super().__init__(
            built, image_shape, name=name, weights=said, channels=channels, size=size, mean=mean, std=std, layer=layer,
            pool=pool,
        )  # fmt: skip
        take_weights(self, training_classes, weights, name)

    @classmethod
    def depends_on_seed(cls, options: Mapping[str, Any]) -> bool:
        """Whether the weights are drawn: none are given, and the class does not say ``seeded = False``."""
        seeded = getattr(load_attribute(options["network"]), "seeded", True)
        return super().depends_on_seed(options) and bool(seeded)
