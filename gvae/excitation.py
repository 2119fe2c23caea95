"""Supervised guidance: a target is excited in some latents and inhibited in the rest, by a head and an adversary."""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from gvae.augment import Augment
from gvae.batch import Batch, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.guidance import build_adversary, build_head
from gvae.part import Part, Setting
from gvae.targets import BINARY, CATEGORICAL, CONTINUOUS, Target
from gvae.vae import VAE, take, width

TARGETS = {"categorical": CATEGORICAL, "binary": BINARY, "continuous": CONTINUOUS}
Form = Literal["joint", "release"]


class Excitation(Part):
    """Excitation and inhibition of one target: max L_exc - L_inh (Ding et al. 2020, equations 7 to 9).

    z = (z_t, z_rest). Excitation: a head reads the target from z_t. Inhibition: an adversary reads it from z_rest, all
    other latents, and the encoder makes the adversary's answer say nothing. ``form``: ``joint`` (encoder terms in one
    step, adversary in another: the paper's objective) or ``release`` (VAE + excitation; adversary on detached z_rest;
    encoder alone with the first phase's optimiser).
    """

    head: nn.Module
    adversary: nn.Module

    def __init__(self, target: str, excitation: float, inhibition: float, adversary_hidden: int, form: Form):
        super().__init__()
        self.target_kind, self.excitation, self.inhibition = target, excitation, inhibition
        self.adversary_hidden, self.form = adversary_hidden, form

    @property
    def target(self) -> Target:
        """How answers are judged."""
        return TARGETS[self.target_kind]

    @property
    def apart(self) -> bool:
        """Whether inhibition is a phase of its own."""
        return self.form == "release"

    def divide(self, vae: VAE, excited: Collection[str]) -> tuple[int, int]:
        """Keep which latents are z_t, the slots that are excited; return how many are z_t and z_rest."""
        self._mine, self._rest = vae.chosen(excited), vae.chosen(excited, others=True)
        return width(self._mine), width(self._rest)

    def truth(self, batch: Batch, seen: Seen) -> Shaped[Tensor, "n ..."]:
        """Return the target of each image."""
        raise NotImplementedError

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return weighted excitation, with inhibition in the joint form."""
        truth = self.truth(batch, seen)
        with full_precision(seen.z):
            answer, excitation = self.excite(batch, take(seen.z, self._mine), truth)
        loss = self.excitation * excitation
        terms = {"excitation": excitation, f"excitation_{self.target.measure}": self.target.score(answer, truth)}
        if self.form == "joint":
            more, named = self.inhibition_loss(seen.z)
            loss, terms = loss + more, {**terms, **named}
        return loss, terms

    def excite(
        self, batch: Batch, mine: Float[Tensor, "n k"], truth: Shaped[Tensor, "n ..."]
    ) -> tuple[Float[Tensor, "n a"], Tensor]:
        """Return the head's answers on z_t and its loss."""
        answer = self.head(mine)
        return answer, self.target.loss(answer, truth)

    def inhibition_loss(self, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return how far the adversary's answer on z_rest is from saying nothing, weighted."""
        with full_precision(z):
            inhibition = self.target.denial(self.adversary(take(z, self._rest)))
        return self.inhibition * inhibition, {"inhibition": inhibition}

    def adversary_loss(self, batch: Batch, seen: Seen, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return the adversary's loss on detached z_rest, the inner maximum of L_inh, and how well it reads."""
        truth = self.truth(batch, seen)
        with full_precision(z):
            answer = self.adversary(take(z, self._rest))
            loss = self.target.loss(answer, truth)
        return loss, {"adversary": loss, f"adversary_{self.target.measure}": self.target.score(answer, truth)}


class Attribute(Excitation):
    """One attribute of the images excited in a slot of its own name and inhibited in all others.

    ``attribute``: ``class`` (the class labels) or a known factor of the dataset. ``target``: ``categorical`` (one of
    ``values``; for classes their number is known), ``binary`` (one logit, as in the release) or ``continuous``
    (standardised over the training images). ``head``: softmax, cosine or prototype for categories; ``softmax`` is a
    linear layer and the only one for the others. ``latents``: how many the slot takes.
    """

    levels: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        attribute: str = "class",
        target: Literal["categorical", "binary", "continuous"] = "categorical",
        values: int | None = None,
        latents: int = 1,
        head: Literal["softmax", "prototype", "cosine"] = "softmax",
        excitation: float = 50.0,
        inhibition: float = 50.0,
        adversary_hidden: int = 128,
        form: Form = "joint",
    ):
        super().__init__(target, excitation, inhibition, adversary_hidden, form)
        is_class = attribute == "class"
        self.attribute, self.values, self.latents, self.head_kind = attribute, values, latents, head
        self.labels_used = "class" if is_class else "factor"
        self.factor = None if is_class else attribute
        self.label = "" if is_class else attribute
        lead = f"attribute {attribute!r}: "
        if attribute == "content":
            raise ModelError(lead + "'content' is the slot of what no part asks for; allowed: class or a known factor")
        if target != "categorical" and head != "softmax":
            raise ModelError(lead + f"head {head!r} is for categories; a {target} target allows: softmax")
        if is_class and (target != "categorical" or values is not None):
            raise ModelError(lead + "classes are categorical and counted already; leave target and values out")
        if not is_class and (target == "categorical") != (values is not None) or (values is not None and values < 2):
            raise ModelError(lead + f"values: given {values}; a categorical factor allows 2 or more, others none")

    def slots(self, latents: int, warp: Augment | None) -> dict[str, int]:
        """Return the slot of the attribute's name."""
        if not 0 < self.latents < latents:
            option = "class_latents" if self.attribute == "class" else f"latents of attribute {self.attribute!r}"
            raise ModelError(f"{option} must be between 1 and latents - 1 = {latents - 1}, got {self.latents}")
        return {self.attribute: self.latents}

    def build(self, setting: Setting) -> None:
        """Build the excitation head and the adversary."""
        mine, rest = self.divide(setting.vae, (self.attribute,))
        count = {"binary": 1, "continuous": 1}.get(self.target_kind, self.values or setting.classes)
        self.head = build_head(self.head_kind, mine, count)
        self.adversary = build_adversary(rest, count, self.adversary_hidden)
        if self.factor:  # filled by prepare; a state that is resumed from has them
            self.register_buffer("levels", torch.zeros(self.values or 2))
            self.register_buffer("centre", torch.zeros(()))
            self.register_buffer("spread", torch.ones(()))

    def prepare(self, factors: Mapping[str, Tensor]) -> None:
        """Take the distinct values of a categorical or binary factor, the mean and sd of a continuous one."""
        if not self.factor:
            return
        if self.factor not in factors:
            known = ", ".join(sorted(factors)) or "none"
            raise ModelError(f"attribute {self.factor!r} is no known factor of these images; they have: {known}")
        values = factors[self.factor].to(self.centre)
        found = values.unique()
        wanted = len(self.levels)
        if self.target_kind == "continuous":
            if len(found) < 2:
                raise ModelError(f"attribute {self.factor!r} is {found.item():g} for every image: nothing to excite")
            self.centre.copy_(values.mean())
            self.spread.copy_(values.std())
        elif len(found) != wanted:
            raise ModelError(
                f"attribute {self.factor!r} has {len(found)} distinct values, but its target is {self.target_kind} "
                f"with {wanted}; give target: continuous, or target: categorical with values: {len(found)}"
            )
        else:
            self.levels.copy_(found)

    def truth(self, batch: Batch, seen: Seen) -> Shaped[Tensor, "n ..."]:
        """Return class labels, the number of a factor's level (n,), or a standardised factor (n, 1)."""
        if not self.factor:
            return batch.labels
        if self.factor not in batch.factors:
            raise ModelError(
                f"the batch has no factor {self.factor!r}; give pretrain factors={{{self.factor!r}: values}}"
            )
        values = batch.factors[self.factor].to(self.centre)
        if self.target_kind == "continuous":
            return ((values - self.centre) / self.spread)[:, None]
        return torch.searchsorted(self.levels, values)


class ClassAttribute(Attribute):
    """The class excited in the slot ``class`` of ``class_latents`` and inhibited in ``content`` (Ding et al. 2020).

    ``head``: a softmax, cosine or prototype classifier over the training classes. ``form``: ``joint`` or ``release``,
    as in ``Excitation``.
    """

    def __init__(
        self,
        *,
        class_latents: int = 48,
        head: Literal["softmax", "prototype", "cosine"] = "softmax",
        excitation: float = 50.0,
        inhibition: float = 50.0,
        adversary_hidden: int = 128,
        form: Form = "joint",
    ):
        super().__init__(
            latents=class_latents, head=head, excitation=excitation, inhibition=inhibition,
            adversary_hidden=adversary_hidden, form=form,
        )  # fmt: skip
