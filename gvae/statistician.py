"""The network of a Neural Statistician: a VAE of sets, each with a context of its own (Edwards & Storkey 2017)."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gvae.errors import ModelError
from gvae.nets import ImageShape
from gvae.vae import VAE, Posterior, SetPosterior


class Latents(NamedTuple):
    """One stochastic layer's z of each image, a sample of ``posterior`` q(z|...), and its ``prior`` p(z|...)."""

    z: Float[Tensor, "n d"]
    posterior: Posterior
    prior: Posterior


class StatisticNetwork(SetPosterior):
    """q(c|D): a layer for each image, the mean over the set, two more layers, mean and log-variance of c.

    Edwards & Storkey 2017, section 3.4. The layers after the mean are also told how many images it is of, as a share of
    ``set_size`` (section 5.3). Called with hidden vectors it takes each image as a set of one.
    """

    def __init__(self, hidden_dim: int, width: int, context: int, set_size: int):
        super().__init__()
        self.set_size, self.instance_dim = set_size, width
        self.before = nn.Sequential(nn.Linear(hidden_dim, width), nn.ELU())
        self.after = dense(width + 1, width, 2, 2 * context)

    def forward(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n two_c"]:
        """Return mean and log-variance of q(c|{x}), side by side."""
        return self.pooled(self.instances(hidden)[:, None])

    def instances(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n k"]:
        """Return what is pooled, a vector for each image."""
        return self.before(hidden)

    def pooled(
        self, instances: Float[Tensor, "b s k"], kept: Bool[Tensor, "b s"] | None = None
    ) -> Float[Tensor, "b two_c"]:
        """Return mean and log-variance of q(c|D) for sets of s images, of which only those ``kept`` count."""
        weight = torch.ones_like(instances[:, :, :1]) if kept is None else kept[:, :, None].to(instances.dtype)
        count = weight.sum(1)
        mean = (weight * instances).sum(1) / count
        return self.after(torch.cat([mean, count / self.set_size], 1))


class StochasticLayer(nn.Module):
    """q(z_i|z_{i+1}, x, c) and p(z_i|z_{i+1}, c), ``above`` latents of the layer above; none for the topmost."""

    def __init__(self, hidden_dim: int, context: int, above: int, latents: int, width: int):
        super().__init__()
        self.posterior = dense(hidden_dim + context + above, width, 3, 2 * latents)
        self.prior = dense(context + above, width, 3, 2 * latents)


class Statistician(VAE):
    """p(D) = int p(c) prod_x int p(x|c, z_1..z_L) p(z_L|c) prod_i p(z_i|z_{i+1}, c): sets of images of one class.

    Edwards & Storkey 2017, equations 5 and 6; with one layer of z equations 3 and 4, but for c that the decoder is
    given too. As a VAE its latents are the context: ``latents`` and ``slots`` are of c, and an image alone is encoded
    as a set of one. Networks after appendix B.1: ``width`` ELU units a dense layer, and a trunk that inference and
    statistic network share.
    """

    posterior: StatisticNetwork

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        trunk: str = "conv",
        latents: int = 64,
        slots: Mapping[str, int],
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        set_size: int = 5,
        z_latents: int = 16,
        z_layers: int = 1,
        width: int = 256,
    ):
        sizes = {"set_size": set_size, "z_latents": z_latents, "z_layers": z_layers, "width": width}
        for name, value in sizes.items():
            if value < 1:
                raise ModelError(f"{name}: given {value}; allowed: 1 or more")
        super().__init__(
            image_shape, trunk=trunk, latents=latents, slots=slots, likelihood=likelihood,
            beside=z_layers * z_latents,
        )  # fmt: skip
        self.set_size, self.z_latents, self.z_layers, self.width = set_size, z_latents, z_layers, width
        hidden_dim = self.encoder.hidden_dim
        self.posterior = StatisticNetwork(hidden_dim, width, latents, set_size)
        above = [0, *[z_latents] * (z_layers - 1)]
        self._layers = [StochasticLayer(hidden_dim, latents, one, z_latents, width) for one in above]
        self.layers = nn.ModuleList(self._layers)

    @property
    def network(self) -> dict[str, Any]:
        """What it was built with besides what every VAE is."""
        return {
            "kind": "statistician", "set_size": self.set_size, "z_latents": self.z_latents, "z_layers": self.z_layers,
            "width": self.width,
        }  # fmt: skip

    def context(self, hidden: Float[Tensor, "n h"], kept: Bool[Tensor, "b s"] | None = None) -> Posterior:
        """Return q(c|D) of consecutive sets of ``set_size`` images from their hidden vectors (n, h), n = b s."""
        instances = self.posterior.instances(hidden).unflatten(0, (-1, self.set_size))
        return gaussian(self.posterior.pooled(instances, kept))

    def infer(
        self, hidden: Float[Tensor, "n h"], context: Float[Tensor, "n c"], generator: torch.Generator | None
    ) -> list[Latents]:
        """Draw z of each image from q(z|x, c), layer by layer from the topmost; ``context`` has a row an image."""
        found: list[Latents] = []
        for layer in self._layers:
            above = [found[-1].z] if found else []
            posterior = gaussian(layer.posterior(torch.cat([hidden, context, *above], 1)))
            prior = gaussian(layer.prior(torch.cat([context, *above], 1)))
            found.append(Latents(posterior.sample(generator), posterior, prior))
        return found

    def render(self, context: Float[Tensor, "n c"], z: list[Float[Tensor, "n d"]]) -> Float[Tensor, "n ch h w"]:
        """Return what the likelihood p(x|c, z_1..z_L) is of."""
        return self.decoder(torch.cat([context, *z], 1))

    def decode(self, z: Float[Tensor, "n c"]) -> Float[Tensor, "n ch h w"]:
        """Return what the likelihood is of for contexts ``z``, each layer of z at the mean of its prior."""
        drawn: list[Tensor] = []
        for layer in self._layers:
            drawn.append(gaussian(layer.prior(torch.cat([z, *drawn[-1:]], 1))).mean)
        return self.render(z, drawn)


def dense(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """Build ``depth`` layers of ``width`` ELU units and a linear one."""
    layers: list[nn.Module] = []
    for before in (inputs, *[width] * (depth - 1)):
        layers += [nn.Linear(before, width), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def gaussian(parameters: Float[Tensor, "n two_d"]) -> Posterior:
    """Split means and log-variances, in float32."""
    mean, logvar = parameters.float().chunk(2, dim=1)
    return Posterior(mean, logvar)
