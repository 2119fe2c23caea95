"""Networks of timm by name, as extractors; timm is an optional extra and imported only here, when it is used."""

from collections.abc import Mapping
from typing import Any

from gvae.nets import ImageShape
from metalearn.construct import drawn_by
from metalearn.errors import UserError, unknown_of_many
from metalearn.networks import FROM_THE_SEED, Network, Pool, take_weights
from metalearn.weights import WeightsFile, fill

CHANNELS = 3


class Timm(Network):
    """A timm network by name, without its classifier: random, or with weights from a local file; needs the extra timm.

    As `metalearn.torchvision_models.Torchvision`, but ``mean`` and ``std``: where weights are given, those that timm
    has for the name.
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
            network = build(name)
        said = FROM_THE_SEED
        if weights is not None:
            facts: Mapping[str, Any] = network.pretrained_cfg
            heads = facts["classifier"] or ()
            said = fill(
                network, weights, heads=[f"{head}." for head in ([heads] if isinstance(heads, str) else heads)],
                how=f"where there is internet, torch.save(timm.create_model({name!r}, pretrained=True).state_dict(), "
                "PATH) writes one",
            )  # fmt: skip
            if mean is None and std is None:
                mean, std = list(facts["mean"]), list(facts["std"])
        super().__init__(
            network, image_shape, name=f"timm {name}", weights=said, channels=CHANNELS, size=size, mean=mean, std=std,
            layer=layer, pool=pool,
        )  # fmt: skip
        take_weights(self, training_classes, weights, f"timm {name}")


def build(name: str) -> Any:
    """Build a network without its classifier, its weights drawn. UserError without timm or for an unknown name."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"extractor kind 'timm' needs the package timm ({error}); install it: pip install 'metalearn[timm]', or "
            "pip install timm; or take a network of kind torchvision"
        ) from None
    architecture = name.partition(".")[0]  # after the dot: whose weights
    if not timm.is_model(architecture):
        raise UserError(unknown_of_many("timm model", name, timm.list_models()))
    try:
        return timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:  # weights that timm does not know
        raise UserError(f"timm model {name!r}: {error}; give the name without them: {architecture}") from None
