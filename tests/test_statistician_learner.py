"""The Neural Statistician's few-shot rule: by hand, on features as on images, and through a benchmark."""

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder, initialise
from gvae.statistician import Statistician as Network
from gvae.vae import VAE
from metalearn.errors import UserError
from metalearn.evaluate import evaluate_features, evaluate_images
from metalearn.extractors import Instances, PosteriorMean
from metalearn.features import extract
from metalearn.learners import make_learner
from metalearn.learners.statistician import divergence
from tasks.datasets import glyphs
from tasks.episodes import EpisodeSampler

SHAPE, SLOTS = (1, 14, 14), {"class": 2, "content": 4}


@pytest.fixture(autouse=True)
def tiny_trunk(monkeypatch):
    widths = (8, 8)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))


@pytest.fixture(scope="module")
def dataset():
    return glyphs(classes=60, instances=10, image_size=14)


def extractor_of(kind="statistician", slots=None):
    options = {"set_size": 3, "z_latents": 2, "width": 16} if kind == "statistician" else {}
    network = (Network if kind == "statistician" else VAE)(SHAPE, trunk="tiny", latents=6, slots=SLOTS, **options)
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():  # posteriors that differ more than those of a fresh network do
        for parameter in network.posterior.parameters():
            parameter.mul_(2)
    return PosteriorMean(network, slots).eval()


def by_hand(extractor, support, query, direction):
    """Nearest context, one class and one query at a time; support (ways, shots, c, h, w)."""
    index, network, said = extractor.index.tolist(), extractor.posterior, []

    def posterior(images):
        hidden = extractor.encoder(images)
        if isinstance(network, nn.Linear):
            parameters = network(hidden.mean(0))
        else:
            told = torch.tensor([len(images) / network.set_size])
            parameters = network.after(torch.cat([network.before(hidden).mean(0), told]))
        mean, logvar = parameters.chunk(2)
        return Normal(mean[index].double(), (logvar[index].double() / 2).exp())

    for one in query:
        asked = posterior(one[None])
        pairs = [(posterior(images), asked) for images in support]
        if direction == "query_support":
            pairs = [pair[::-1] for pair in pairs]
        said.append(torch.stack([kl_divergence(*pair).sum() for pair in pairs]))
    return -torch.stack(said)


@pytest.mark.parametrize("direction", ["support_query", "query_support"])
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize(("kind", "slots"), [("statistician", None), ("statistician", ["class"]), ("vae", None)])
@torch.no_grad()
def test_the_rule_is_the_nearest_context_written_out(kind, slots, shots, direction):
    extractor = extractor_of(kind, slots)
    draw = torch.Generator().manual_seed(1)
    support, query = torch.rand(5, shots, *SHAPE, generator=draw), torch.rand(7, *SHAPE, generator=draw)
    expected = by_hand(extractor, support, query, direction)
    learner = make_learner("statistician", extractor, direction=direction)
    labels = torch.arange(5).repeat_interleave(shots)
    found = learner.adapt(support.flatten(0, 1), labels)(query)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert not learner.transductive


def test_the_first_direction_is_the_papers_and_they_differ():
    assert make_learner("statistician").direction == "support_query"
    draw = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 1, 3, 4, generator=draw)
    one = divergence(mean, logvar, mean, logvar)
    torch.testing.assert_close(one.diagonal(dim1=1, dim2=2), torch.zeros(1, 3), atol=1e-5, rtol=0)
    assert not torch.allclose(one, one.mT, atol=0.1) and (one > -1e-5).all()


def test_divergence_survives_a_large_offset_in_float32():
    draw = torch.Generator().manual_seed(0)
    mean, logvar, other, other_logvar = torch.randn(4, 2, 5, 8, generator=draw)
    expected = divergence(mean.double(), logvar.double(), other.double(), other_logvar.double())
    shifted = divergence(mean + 100, logvar, other + 100, other_logvar)
    torch.testing.assert_close(shifted.double(), expected, rtol=1e-3, atol=1e-2)


def test_batched_on_features_it_answers_as_on_images_one_by_one(dataset):
    extractor = extractor_of()
    learner = make_learner("statistician", extractor)
    features = extract(Instances(extractor), dataset.test)
    assert features.shape == (len(dataset.test.labels), extractor.instance_dim)
    sampler = EpisodeSampler(dataset.test.labels, ways=5, shots=2, queries=3, seed=0)
    single = evaluate_images(learner, dataset.test, sampler, 30)
    for batch in (7, 500):
        counts = evaluate_features(features, dataset.test.labels, learner, sampler, 30, batch=batch)
        np.testing.assert_array_equal(counts, single)
    assert 0.25 < single.mean() / 15 < 1


def test_it_can_be_meta_trained():
    extractor = extractor_of()
    learner = make_learner("statistician", extractor)
    images, labels = torch.rand(6, *SHAPE), torch.arange(3).repeat_interleave(2)
    learner.meta_loss(images, labels, torch.rand(3, *SHAPE), torch.arange(3))[0].backward()
    missing = [name for name, parameter in extractor.named_parameters() if parameter.grad is None]
    assert not missing


def test_what_it_cannot_work_on_is_told():
    with pytest.raises(UserError) as caught:
        make_learner("statistician", nn.Flatten())
    words = "learner statistician: given an extractor Flatten, which has no posterior of a set of images; "
    assert str(caught.value) == words + "allowed: extractors of kind pretrain, checkpoint or random"
    with pytest.raises(UserError, match="given features alone; it needs the extractor whose network they are of"):
        make_learner("statistician").classify(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 3))
    with pytest.raises(UserError, match="direction: unknown value 'both'"):
        make_learner("statistician", direction="both")


CONFIG = """
dataset: {kind: glyphs, classes: 60, instances: 10, image_size: 14}
pretraining:
  model: {trunk: conv, latents: 12}
  training: {epochs: 1, batch_size: 40}
  monitor: {ways: 3, shots: 1, queries: 3, episodes: 5}
extractors:
  vae: {kind: pretrain, objective: vae}
  sets: {kind: pretrain, objective: {kind: neural_statistician, width: 16}}
  guided: {kind: pretrain, objective: {kind: guided_neural_statistician, width: 16, class_latents: 6}, slots: [class]}
learners: {prototypical: prototypical, statistician: statistician}
episodes: {settings: [5w1s, 5w3s], queries: 5, count: 50, part: val}
"""


def bench(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    words = ["bench", tmp_path / "config.yaml", "--data-root", tmp_path, "--out", tmp_path / "run", "--quiet"]
    environment = {**os.environ, "METALEARN_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "metalearn", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_benchmark_pretrains_and_compares_them_on_the_same_episodes(tmp_path):
    done = bench(tmp_path, CONFIG)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    used = {row["extractor"]: row["labels_used"] for row in report["rows"]}
    assert used == {"vae": "none", "sets": "class", "guided": "class"}
    assert len(report["rows"]) == 3 * 2 * 2 and not any(row["transductive"] for row in report["rows"])
    assert {row["mode"] for row in report["rows"]} == {"frozen"}
    pairs = {(one["candidate"], one["learner"]) for one in report["comparisons"]}
    assert pairs == {(name, learner) for name in ("sets", "guided") for learner in ("prototypical", "statistician")}


def test_a_benchmark_says_before_any_work_which_extractor_has_no_posterior(tmp_path):
    done = bench(tmp_path, CONFIG.replace("  vae: {kind: pretrain, objective: vae}", "  raw: pixels"))
    assert done.returncode == 2 and not list((tmp_path / "cache").glob("encoders/*"))
    said = " ".join(done.stderr.split())
    words = "learners.statistician: 'statistician' compares posteriors of sets of images, and extractors.raw has none; "
    assert words + "allowed: extractors of kind pretrain, checkpoint or random; give it a benchmark of its own" in said
