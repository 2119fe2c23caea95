"""What an objective is: a VAE, one regulariser, the parts that guide it, and the optimiser phases of one batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae import losses
from gvae.arithmetic import widened
from gvae.augment import Augment
from gvae.batch import Batch, Phase, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.geometry import Geometry
from gvae.guidance import LightOutput
from gvae.nets import ImageShape, initialise
from gvae.part import Part, Setting, together
from gvae.regularizers import Regularizer
from gvae.vae import VAE, Posterior

__all__ = ["Batch", "Phase", "Terms", "VAEObjective"]


class VAEObjective(nn.Module):
    """Minimises elbo * (-E_q log p(x|z) + regulariser) + the terms of the parts that guide.

    The latents are named slots: the parts ask for theirs, in order, and ``content`` is the rest; parts that ask for
    the same slot share it. ``likelihood="gaussian"`` sums squared errors, the release's choice for photographs.
    ``warp``: a random warp of what is encoded, parameters drawn an image from the step's generator; parts that need
    one say so. ``elbo=0`` leaves out decoder and regulariser: the parts alone train the encoder.

    Phases of a batch: ``main`` (everything but adversaries), ``discriminator`` where the regulariser has one,
    ``adversary`` (of all parts), ``inhibition`` (of the parts whose inhibition stands apart).

    ``classes`` and ``dataset_size`` describe the training part; ``seed`` draws the first weights; ``network`` builds
    the VAE. ``set_size`` images of one class follow each other in its batches, and ``group_size`` such sets of one
    group of classes. ModelError says what does not fit.
    """

    set_size: int = 1
    group_size: int = 1

    def __init__(
        self,
        image_shape: ImageShape,
        classes: int,
        dataset_size: int,
        seed: int,
        trunk: str,
        latents: int,
        *,
        regularizer: Regularizer,
        parts: Sequence[Part] = (),
        warp: Augment | None = None,
        elbo: float = 1.0,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        network: Callable[..., VAE] = VAE,
    ):
        super().__init__()
        _check(parts, warp, elbo, image_shape[0])
        self.elbo_weight, self.likelihood, self.dataset_size = elbo, likelihood, dataset_size
        slots = divide(latents, parts, warp)
        self.vae = network(image_shape, trunk=trunk, latents=latents, slots=slots, likelihood=likelihood)
        self.regularizer = regularizer if elbo else Regularizer()
        self.regularizer.build(latents, dataset_size)
        self.parts, (self.set_size, self.group_size) = nn.ModuleList(parts), together(parts)
        self._parts, self._warp = tuple(parts), warp
        for part in parts:
            part.build(Setting(self.vae, classes, warp))
        initialise(self, torch.Generator().manual_seed(seed))
        for part in parts:
            part.start()
        if not elbo:
            self.vae.decoder.requires_grad_(False)

    @property
    def labels_used(self) -> str:
        """What its training sees of labels: class (perhaps factors too), factor, or none."""
        used = {part.labels_used for part in self._parts}
        return next((name for name in ("class", "factor") if name in used), "none")

    @property
    def image_nets(self) -> list[nn.Module]:
        """What works on images: where several processes train, each on its own; all else sees the whole batch."""
        return [self.vae, *(net for part in self._parts for net in part.image_nets)]

    @property
    def factors(self) -> list[str]:
        """Names of the known factors that its batches must have."""
        return sorted({part.factor for part in self._parts if part.factor})

    def prepare(self, factors: Mapping[str, Tensor]) -> None:
        """Take the known factors (n,) of all training images, before the first batch; ModelError if one is missing."""
        for part in self._parts:
            part.prepare(factors)

    def settings(self) -> dict[str, Any]:
        """Return the plain settings that the losses are a function of, besides the network and the batch."""
        return {
            "slots": self.vae.slot_sizes, "likelihood": self.likelihood, "dataset_size": self.dataset_size,
            "elbo": self.elbo_weight, **self.regularizer.settings(), "parts": [part.settings() for part in self._parts],
            **({"warp": self._warp.settings()} if self._warp else {}),
        }  # fmt: skip

    def look(self, batch: Batch) -> Seen:
        """Encode a batch: each image as it is or warped, under two warps where a part compares them."""
        images, drawn = self._view(batch)
        more = self._view(batch)[:1] if any(part.second_view for part in self._parts) else ()
        posterior, *others = self._posteriors(batch, images, *more)
        return Seen(images, drawn, posterior, posterior.sample(batch.generator), others[0] if others else None)

    def _posteriors(self, batch: Batch, *views: Tensor) -> list[Posterior]:
        """Encode views of this process's images in one pass; return the posteriors of the whole batch in each."""
        latents = widened(torch.cat(self.vae.encode(torch.cat(views)), 1))
        gathered = (batch.share.gather(view) for view in latents.chunk(len(views)))
        return [Posterior(*view.chunk(2, 1)) for view in gathered]

    def _view(self, batch: Batch) -> tuple[Tensor, Any]:
        if self._warp is None:
            return batch.images, None
        drawn = self._warp.draw(len(batch.labels), batch.generator, batch.images.device)
        with torch.no_grad():
            return self._warp.apply(batch.images, drawn.mine(batch.share)), drawn

    def elbo(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (weighted negative ELBO by the regulariser, terms), batch means in nats."""
        if not self.elbo_weight:
            return torch.zeros((), device=seen.z.device), {}
        logits = widened(self.vae.decode(batch.share.mine(seen.z)))
        error = losses.bernoulli_nll if self.likelihood == "bernoulli" else losses.squared_error
        reconstruction = error(logits, seen.images).mean()
        with full_precision(seen.z):
            penalty, more = self.regularizer.loss(batch, seen)
        loss = self.elbo_weight * (reconstruction + penalty)
        return loss, {"reconstruction": reconstruction, "kl": seen.kl(), **more}

    def loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return the main phase's loss and terms."""
        seen = self.look(batch)
        loss, terms = self.elbo(batch, seen)
        for part in self._parts:
            more, named = part.loss(batch, seen)
            loss, terms = loss + more, {**terms, **_named(part, named)}
        self._seen = seen.without_gradient()
        return loss, terms

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return the loss of the regulariser's discriminator, on the latents of the main phase."""
        with full_precision(self._seen.z):
            return self.regularizer.discriminator_loss(batch, self._seen.z)

    def adversary_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return the sum of the adversaries' losses, on detached latents.

        A new sample from the posterior that the phase before computed, as in the release: no second encoding.
        """
        z = self._seen.posterior.sample(batch.generator)
        return _sum((part, part.adversary_loss(batch, self._seen, z)) for part in self._parts if part.adversary)

    def inhibition_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return phase 3 of the release's form: the encoder alone, against the adversaries."""
        z = self._posteriors(batch, self._seen.images)[0].sample(batch.generator)
        return _sum((part, part.inhibition_loss(z)) for part in self._parts if part.apart)

    def phases(self) -> list[Phase]:
        """Return the optimiser steps of one batch, in order."""
        rivals = [parameter for part in self._parts if part.adversary for parameter in part.adversary.parameters()]
        discriminator = list(self.regularizer.discriminator.parameters()) if self.regularizer.discriminator else []
        others = {id(parameter) for parameter in (*rivals, *discriminator)}
        model = [one for one in self.parameters() if one.requires_grad and id(one) not in others]
        phases = [Phase("main", "main", model, self.loss)]
        if discriminator:
            own = self.regularizer.discriminator_adam
            phases.append(Phase("discriminator", "discriminator", discriminator, self.discriminator_loss, *own))
        if rivals:
            phases.append(Phase("adversary", "adversary", rivals, self.adversary_loss))
        if any(part.apart for part in self._parts):
            phases.append(Phase("inhibition", "main", model, self.inhibition_loss))
        return phases

    @property
    def decodes(self) -> bool:
        """Whether the decoder is trained at all."""
        return self.elbo_weight > 0

    def pictures(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n c h w"]]:
        """Return what the parts decode from latents, named, in [0, 1]."""
        return {name: image for part in self._parts for name, image in part.pictures(z).items()}

    @property
    def geometry(self) -> Geometry | None:
        """The part with the light decoder, None where there is none."""
        return next((part for part in self._parts if isinstance(part, Geometry)), None)

    def light(self, z: Float[Tensor, "n d"]) -> LightOutput | None:
        """Return the light decoder's view of latents, None where there is no light decoder."""
        return self.geometry.light(z) if self.geometry else None

    @property
    def components(self) -> Float[Tensor, "k c h w"] | None:
        """The light decoder's basis as images, None where there is none."""
        return self.geometry.components if self.geometry else None


def divide(latents: int, parts: Sequence[Part], warp: Augment | None) -> dict[str, int]:
    """Return the slots: those that the parts ask for, in order, then ``content`` with what is left of ``latents``."""
    slots: dict[str, int] = {}
    for part in parts:
        for name, size in part.slots(latents, warp).items():
            if slots.setdefault(name, size) != size:
                raise ModelError(f"slot {name!r}: one part asks for {slots[name]} latents, another for {size}")
    return {**slots, "content": latents - sum(slots.values())}


def _check(parts: Sequence[Part], warp: Augment | None, elbo: float, channels: int) -> None:
    names = [type(part).__name__.lower() + (f" {part.label!r}" if part.label else "") for part in parts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ModelError(f"parts: {', '.join(repeated)} twice; allowed: each once (an attribute once by its name)")
    needs = [name for name, part in zip(names, parts, strict=True) if part.warped]
    if needs and warp is None:
        raise ModelError(f"warp: given nothing; {', '.join(needs)} needs one, such as {{rotation: 30}}")
    if elbo < 0 or (elbo == 0 and not parts):
        raise ModelError(f"elbo: given {elbo}; allowed: above 0, or 0 where parts train the encoder alone")
    if warp:
        warp.check(channels)


def _named(part: Part, terms: Terms) -> Terms:
    return {name + (f"_{part.label}" if part.label else ""): term for name, term in terms.items()}


def _sum(found: Any) -> tuple[Tensor, Terms]:
    total: Tensor | None = None
    terms: Terms = {}
    for part, (loss, named) in found:
        total = loss if total is None else total + loss
        terms.update(_named(part, named))
    assert total is not None
    return total, terms
