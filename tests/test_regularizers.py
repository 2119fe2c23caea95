"""Each regulariser's terms against closed forms, numpy and slow loops; FactorVAE's two phases."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from gvae import losses
from gvae.batch import Batch, Seen
from gvae.errors import ModelError
from gvae.regularizers import REGULARIZERS, Capacity, Factor
from gvae.vae import Posterior


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(n=8, step=0):
    return Batch(torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.long), torch.Generator().manual_seed(3), step)


def seen(n=8, d=3):
    posterior = Posterior(noise(n, d).float(), noise(n, d, seed=1).float())
    return Seen(torch.zeros(n, 1, 2, 2), None, posterior, posterior.sample(torch.Generator().manual_seed(2)), None)


def test_capacity_rises_linearly_and_stays():
    assert [losses.capacity_at(step, 25.0, 100) for step in (0, 50, 100, 500)] == [0.0, 12.5, 25.0, 25.0]


@pytest.mark.parametrize("step", [0, 5, 50])
def test_the_annealed_vae_is_the_distance_of_the_kl_from_the_steps_capacity(step):
    one = seen()
    kl = losses.kl_to_standard_normal(*one.posterior).sum().item() / 8
    loss, terms = Capacity(gamma=7.0, capacity=4.0, capacity_steps=10).loss(batch_of(step=step), one)
    assert loss.item() == pytest.approx(7 * abs(kl - 4 * min(step / 10, 1)), rel=1e-5)
    assert terms["capacity"].item() == pytest.approx(4 * min(step / 10, 1))


def test_covariance_is_numpys():
    z = noise(20, 4)
    np.testing.assert_allclose(losses.covariance(z).numpy(), np.cov(z.numpy().T, bias=True), rtol=1e-9)


@pytest.mark.parametrize(("name", "sampled"), [("dip_i", False), ("dip_ii", True)])
def test_dip_is_a_loop_over_the_covariance(name, sampled):
    one = seen()
    matrix = np.cov(one.posterior.mean.numpy().T, bias=True)
    if sampled:
        matrix = matrix + np.diag(one.posterior.logvar.exp().mean(0).numpy())
    off = sum(matrix[i, j] ** 2 for i in range(3) for j in range(3) if i != j)
    on = sum((matrix[i, i] - 1) ** 2 for i in range(3))
    loss, terms = REGULARIZERS[name](off_diagonal=2.0, diagonal=5.0).loss(batch_of(), one)
    assert terms["dip"].item() == pytest.approx(2 * off + 5 * on, rel=1e-4)
    assert loss.item() == pytest.approx(one.kl().item() + terms["dip"].item(), rel=1e-6)


def test_permuting_shuffles_each_latent_on_its_own():
    z = noise(50, 3)
    found = losses.permute_latents(z, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort(0).values, z.sort(0).values)
    assert len({tuple((found[:, [k]] == z[:, k]).int().argmax(1).tolist()) for k in range(3)}) == 3


def test_the_density_ratio_of_the_best_discriminator_is_the_log_ratio():
    p = torch.tensor([0.9, 0.3], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    torch.testing.assert_close(losses.log_density_ratio(logits), torch.logit(p))
    expected = -0.5 * (p.log().mean() + (1 - p).log().mean())
    torch.testing.assert_close(losses.discriminator_loss(logits, logits), expected)


def test_the_discriminator_has_the_papers_layers_and_finds_the_total_correlation_of_a_gaussian():
    regularizer = Factor()
    regularizer.build(2, 100)
    shapes = [tuple(layer.weight.shape) for layer in regularizer.discriminator if hasattr(layer, "weight")]
    assert shapes == [(1000, 2), *[(1000, 1000)] * 5, (2, 1000)]
    torch.manual_seed(0)
    small = Factor(discriminator_width=32, discriminator_layers=2)
    small.build(2, 100)
    optimiser = torch.optim.Adam(small.parameters(), 3e-3)
    rho, root = 0.8, torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    for step in range(300):
        z = noise(512, 2, seed=step).float() @ root.T
        loss, terms = small.discriminator_loss(batch_of(), z)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        z = noise(4000, 2, seed=999).float() @ root.T
        found = losses.log_density_ratio(small.discriminator(z)).mean().item()
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.12)  # 0.51 nats
    assert terms["discriminator_accuracy"] > 0.6


def test_nt_xent_is_a_loop_over_pairs():
    one, other, n = noise(4, 3), noise(4, 3, seed=1), 4
    views = [v / v.norm() for v in torch.cat([one, other])]
    expected = []
    for i in range(n):
        found = 0.0
        for at, partner in ((i, i + n), (i + n, i)):
            below = sum(math.exp(float(views[at] @ views[k]) / 0.5) for k in range(2 * n) if k != at)
            found += -math.log(math.exp(float(views[at] @ views[partner]) / 0.5) / below) / 2
        expected.append(found)
    found = losses.normalised_temperature_cross_entropy(one, other, 0.5)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_nt_xent_of_views_that_say_nothing_is_the_log_of_the_choices():
    same = torch.ones(5, 3, dtype=torch.float64)
    found = losses.normalised_temperature_cross_entropy(same, same, 0.1)
    torch.testing.assert_close(found, torch.full((5,), math.log(9), dtype=torch.float64))


def test_supervised_contrastive_by_its_sums():
    """Khosla et al. 2020, equation 2, row by row in float64."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    found = losses.supervised_contrastive(z, labels, 0.3)
    unit = (z / z.norm(dim=1, keepdim=True)).numpy()
    for i in range(7):
        others = [k for k in range(7) if k != i]
        total = sum(np.exp(unit[i] @ unit[k] / 0.3) for k in others)
        partners = [k for k in others if labels[k] == labels[i]]
        each = [-np.log(np.exp(unit[i] @ unit[k] / 0.3) / total) for k in partners]
        assert found[i].item() == pytest.approx(np.mean(each) if partners else 0.0)


def test_supervised_contrastive_of_pairs_is_nt_xent():
    one, other = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = losses.supervised_contrastive(torch.cat([one, other]), torch.arange(6).repeat(2), 0.2)
    expected = losses.normalised_temperature_cross_entropy(one, other, 0.2)
    torch.testing.assert_close(found.view(2, 6).mean(0), expected)


def test_variance_explained_is_scikit_learns_r2():
    answer, truth = noise(30, 2), noise(30, 2, seed=1)
    assert losses.variance_explained(answer, truth).item() == pytest.approx(r2_score(truth, answer), rel=1e-9)


def test_wrong_options_are_refused():
    with pytest.raises(ModelError, match="capacity_steps: given 0; allowed: 1 or more"):
        Capacity(capacity_steps=0)
    with pytest.raises(ModelError, match="discriminator_width, discriminator_layers: given 0, 6; allowed: 1 or more"):
        Factor(discriminator_width=0)
