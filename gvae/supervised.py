"""Supervised guidance: excitation of the class in z_t, inhibition of it in the rest of the latents."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gvae import losses
from gvae.errors import ModelError
from gvae.guidance import build_adversary, build_head
from gvae.nets import ImageShape
from gvae.objective import Batch, Phase, Terms, VAEObjective, full_precision
from gvae.vae import Posterior


class SupervisedGuidedVAEObjective(VAEObjective):
    """Supervised Guided-VAE with class labels: max ELBO + L_exc - L_inh (Ding et al. 2020, equations 7 to 9).

    z = (z_t, z_rest): slots ``class`` (``class_latents``) and ``content``. Excitation: a softmax, cosine or
    prototype head reads the class from z_t. Inhibition: an adversary reads it from z_rest, and the encoder makes
    the adversary's answer uniform. ``form``: ``joint`` (encoder terms in one step, adversary in another: the
    paper's objective) or ``release`` (VAE + excitation; adversary on detached z_rest; encoder alone with the first
    phase's optimiser).
    """

    labels_used: ClassVar[str] = "class"

    def __init__(
        self,
        image_shape: ImageShape,
        classes: int,
        dataset_size: int,
        seed: int,
        trunk: str,
        latents: int,
        *,
        class_latents: int = 48,
        head: Literal["softmax", "prototype", "cosine"] = "softmax",
        excitation: float = 50.0,
        inhibition: float = 50.0,
        adversary_hidden: int = 128,
        form: Literal["joint", "release"] = "joint",
        beta: float = 1.0,
        regularizer: Literal["kl", "tc"] = "kl",
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    ):
        if not 0 < class_latents < latents:
            raise ModelError(f"class_latents must be between 1 and latents - 1 = {latents - 1}, got {class_latents}")
        self.class_latents, self.head_kind, self.adversary_hidden = class_latents, head, adversary_hidden
        self.excitation, self.inhibition, self.form = excitation, inhibition, form
        super().__init__(
            image_shape, classes, dataset_size, seed, trunk, latents,
            beta=beta, regularizer=regularizer, likelihood=likelihood,
        )  # fmt: skip

    def slots(self, latents: int) -> dict[str, int]:
        """Return ``class`` (z_t), then ``content`` (z_rest)."""
        return {"class": self.class_latents, "content": latents - self.class_latents}

    def add_guidance(self, image_shape: ImageShape, classes: int) -> None:
        """Build the excitation head and the adversary."""
        self.head = build_head(self.head_kind, self.class_latents, classes)
        self.adversary = build_adversary(self.vae.slot_sizes["content"], classes, self.adversary_hidden)

    def excite(self, batch: Batch) -> tuple[Tensor, Tensor, Terms]:
        """Return (negative ELBO + excitation, z, terms)."""
        loss, posterior, z, terms = self.elbo(batch)
        self._posterior = Posterior(posterior.mean.detach(), posterior.logvar.detach())
        with full_precision(z):
            logits = self.head(self.vae.slot(z, "class"))
            terms["excitation"] = F.cross_entropy(logits, batch.labels)
        terms["excitation_accuracy"] = (logits.argmax(1) == batch.labels).float().mean()
        return loss + self.excitation * terms["excitation"], z, terms

    def inhibit(self, z: Float[Tensor, "n d"]) -> Tensor:
        """Return the cross-entropy from uniform to the adversary's answer on z_rest; least is log(classes)."""
        with full_precision(z):
            return losses.cross_entropy_to_uniform(self.adversary(self.vae.slot(z, "content"))).mean()

    def excitation_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return phase 1 of the release's form: VAE and excitation."""
        loss, _, terms = self.excite(batch)
        return loss, terms

    def adversary_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return the adversary's cross-entropy on detached z_rest: the inner maximum of L_inh.

        A new sample from the posterior that the phase before computed, as in the release: no second encoding.
        """
        z = self._posterior.sample(batch.generator)
        with full_precision(z):
            logits = self.adversary(self.vae.slot(z, "content"))
            loss = F.cross_entropy(logits, batch.labels)
        return loss, {
            "adversary": loss,
            "adversary_accuracy": (logits.argmax(1) == batch.labels).float().mean(),
        }

    def inhibition_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return phase 3 of the release's form: the encoder alone, against the adversary."""
        posterior = self.vae.encode(batch.images)
        z = Posterior(posterior.mean.float(), posterior.logvar.float()).sample(batch.generator)
        inhibition = self.inhibit(z)
        return self.inhibition * inhibition, {"inhibition": inhibition}

    def joint_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Return negative ELBO + excitation + inhibition, one step for the encoder, decoder and head."""
        loss, z, terms = self.excite(batch)
        terms["inhibition"] = self.inhibit(z)
        return loss + self.inhibition * terms["inhibition"], terms

    def phases(self) -> list[Phase]:
        """Return the steps of one batch: encoder then adversary, or the release's three."""
        model = [*self.vae.parameters(), *self.head.parameters()]
        adversary = Phase("adversary", "adversary", list(self.adversary.parameters()), self.adversary_loss)
        if self.form == "joint":
            return [Phase("main", "main", model, self.joint_loss), adversary]
        return [
            Phase("main", "main", model, self.excitation_loss),
            adversary,
            Phase("inhibition", "main", model, self.inhibition_loss),
        ]
