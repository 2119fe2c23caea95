"""A VAE's losses that stay on while its encoder is meta-trained: reconstruction, regulariser and guidance, weighted."""

from typing import Any

import torch
from torch import Tensor, nn

from gvae.batch import Phase
from gvae.batch_norm import shared_statistics
from gvae.objective import VAEObjective
from gvae.pretrain import build_optimisers
from gvae.share import ALONE, Share
from gvae.shuffled import Shuffled
from gvae.vae import VAE
from metalearn.errors import UserError
from tasks.class_names import class_groups
from tasks.splits import Partition

AUXILIARY_BATCH = "auxiliary.batch_size"  # the setting


class Auxiliary:
    """The losses of an objective on the VAE whose encoder a learner trains, ``weight`` of them added to the learner's.

    The objective takes over the VAE's network, decoder included; what else it has (light decoder, heads, adversaries)
    starts anew from its seed, for no checkpoint holds it. Its first phase is the auxiliary loss; adversaries and
    discriminators take a step of their own after each of the learner's. Batches of ``batch_size`` training images are a
    function of (seed, iteration) alone, as in pretraining. Of several processes each has a ``share`` of every batch;
    what ``loss`` gives them is, on average, what it would give to one.

    Raises UserError for a VAE whose network or slots are not the objective's, and for an objective whose encoder takes
    two steps a batch (the release's form of inhibition).
    """

    def __init__(
        self,
        objective: VAEObjective,
        vae: VAE,
        train: Partition,
        *,
        weight: float,
        batch_size: int,
        learning_rate: float,
        seed: int,
        device: str | torch.device,
        share: Share = ALONE,
    ):
        share.check(batch_size, AUXILIARY_BATCH)
        self.weight, self.objective, self.share = weight, objective, share
        adopt(objective, vae)
        objective.to(device).train()
        self._main, *self._others = phases_of(objective, train)
        self._optimisers = build_optimisers(self._others, learning_rate)
        known = {name: torch.from_numpy(train.factors[name]).to(device) for name in objective.factors}
        images, labels = torch.from_numpy(train.images()).to(device), torch.from_numpy(train.labels).to(device)
        if share.processes > 1 and objective.set_size > 1:
            raise UserError("auxiliary: an objective on sets of a class is trained by one process; leave torchrun out")
        self._batches = Shuffled(
            images, labels, batch_size, seed, known, share, set_size=objective.set_size,
            group_size=objective.group_size, groups=class_groups(train.class_names),
        )  # fmt: skip

    def parameters(self) -> list[nn.Parameter]:
        """What the learner's optimiser trains for it: all but adversaries, the extractor's own parameters included."""
        return self._main.parameters

    def loss(self, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss of an iteration's batch, and its terms by name, unweighted and detached."""
        self._batch = self._batches[iteration]
        with shared_statistics(self.objective.image_nets, self.share):
            loss, terms = self._main.loss(self._batch)
        named = {f"auxiliary/{name}": value.detach() for name, value in {"loss": loss, **terms}.items()}
        return self.weight * loss, named

    def finish(self) -> dict[str, Tensor]:
        """Let adversaries and discriminators take their step on the batch of the last ``loss``; return their terms."""
        named: dict[str, Tensor] = {}
        for phase in self._others:
            optimiser = self._optimisers[phase.optimiser]
            with shared_statistics(self.objective.image_nets, self.share):
                loss, terms = phase.loss(self._batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            loss, terms = self.share.average(phase.parameters, loss, terms)
            optimiser.step()
            named |= {f"auxiliary/{name}": value.detach() for name, value in terms.items()}
        return named

    def settings(self) -> dict[str, Any]:
        """Return what the losses are a function of, as plain data."""
        return {"weight": self.weight, "batch_size": self._batches.batch_size, **self.objective.settings()}

    def state(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on, besides the learner."""
        optimisers = {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()}
        return {"objective": self.objective.state_dict(), "optimisers": optimisers}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.objective.load_state_dict(state["objective"])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])


def encoder_of(extractor: nn.Module | None) -> VAE:
    """Return the VAE behind an extractor; UserError where there is none."""
    found = getattr(extractor, "vae", None)
    if not isinstance(found, VAE):
        raise UserError(
            f"auxiliary: extractor {type(extractor).__name__} is no encoder of a VAE; allowed: kinds pretrain, "
            "checkpoint and random; leave auxiliary out"
        )
    return found


def phases_of(objective: VAEObjective, train: Partition) -> list[Phase]:
    """Prepare an objective for the training images; return its phases. UserError where two of them move the encoder."""
    objective.prepare({name: torch.from_numpy(values) for name, values in train.factors.items()})
    main, *others = objective.phases()
    if any(phase.optimiser == main.optimiser for phase in others):
        raise UserError("auxiliary.objective: form 'release' moves the encoder twice a batch; allowed: form: joint")
    return [main, *others]


def adopt(objective: VAEObjective, vae: VAE) -> None:
    """Let an objective train another VAE's network; UserError where that is not of the same shape and slots.

    Where all latents of the other are ``content``, as in an untrained network, the objective's slots are as good.
    """
    own = objective.vae
    for name in ("image_shape", "trunk_name", "latents", "likelihood", "slot_sizes"):
        theirs, ours = getattr(vae, name), getattr(own, name)
        if theirs != ours and not (name == "slot_sizes" and set(theirs) == {"content"}):
            raise UserError(
                f"auxiliary.objective: {name} is {theirs} in the extractor and {ours} in the objective; give the "
                "objective that the extractor was pretrained by"
            )
    vae.decoder.requires_grad_(any(parameter.requires_grad for parameter in own.decoder.parameters()))
    own.encoder, own.posterior, own.decoder = vae.encoder, vae.posterior, vae.decoder
