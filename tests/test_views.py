"""Features as a mean over views: by hand, a function of the image alone, and all that an extractor says of itself."""

import json

import pytest
import torch
from command import Shell
from test_extractors import GUIDED, PRETRAINING, dataset, images_of, make_vae, prepared, small, written  # noqa: F401

from gvae.augment import Augment
from gvae.errors import ModelError
from metalearn.cache import weights_fingerprint
from metalearn.errors import UserError
from metalearn.extractors import Pixels, PosteriorMean
from metalearn.prepare import depends_on_seed, gives_posterior
from metalearn.schema import Kind
from metalearn.views import Views, with_views

WARP = {"rotation": 20.0, "translation": 0.1, "elastic": 0.05}


def test_it_is_the_mean_over_the_image_and_the_same_warps_of_every_image(dataset):  # noqa: F811
    extractor, images = PosteriorMean(make_vae()).eval(), images_of(dataset)
    views, augment = Views(extractor, count=3, options=WARP).eval(), Augment(**WARP)
    drawn = augment.draw(3, torch.Generator().manual_seed(0), images.device)
    by_hand = [extractor(images)]
    for number in range(3):
        one = type(drawn)(*(values[number : number + 1] for values in drawn))
        by_hand.append(torch.cat([extractor(augment.apply(image[None], one)) for image in images]))
    torch.testing.assert_close(views(images), torch.stack(by_hand).mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(views(images[2:3]), views(images)[2:3], atol=1e-6, rtol=1e-5)
    assert (views(images) - extractor(images)).abs().max() > 1e-3


def test_gradients_reach_the_network_through_every_view():
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    features = Views(Pixels((1, 28, 28)), count=2, options=WARP).eval()(images)
    (gradient,) = torch.autograd.grad(features.sum(), images)
    assert (gradient - torch.ones_like(images) / 3).abs().max() > 1e-3 and torch.isfinite(gradient).all()


def test_there_are_none_in_train_mode():
    extractor, images = PosteriorMean(make_vae()), torch.rand(2, 1, 28, 28)
    views = Views(extractor, count=2, options=WARP).train()
    torch.testing.assert_close(views(images), extractor(images), rtol=0, atol=0)


def test_a_random_network_may_have_them_and_depends_on_its_seed_all_the_same(dataset):  # noqa: F811
    kind = Kind(kind="random", views={"count": 1, "rotation": 9.0})
    one, other = (prepared(kind, dataset, seed=seed).extractor for seed in (0, 1))
    assert depends_on_seed(kind) and isinstance(one, Views) and not gives_posterior(kind) and not one.pretrained
    assert (one(images_of(dataset)) - other(images_of(dataset))).abs().max() > 1e-3


def test_kept_features_are_of_these_views():
    def key(count=2, **options):
        return weights_fingerprint(Views(PosteriorMean(make_vae()), count=count, options={**WARP, **options}))

    assert key() == key()
    assert len({key(), key(count=3), key(rotation=21.0), key(brightness=0.2), weights_fingerprint(make_vae())}) == 5


def test_a_config_asks_for_them_of_an_encoder_that_is_read_or_pretrained(dataset, tmp_path):  # noqa: F811
    views = {"count": 2, "rotation": 9.0}
    path = str(written(tmp_path, labels_used="class", training_classes=["a"]))
    read = prepared(Kind(kind="checkpoint", path=path, slots=["content"], views=views), dataset).extractor
    assert isinstance(read, Views) and (read.count, read.feature_dim, read.labels_used) == (2, 3, "class")
    assert read.training_classes == {"a"} and read.pretrained and read.vae.latents == 6
    words = "posterior mean of slots content; 3 wide; mean over the image and 2 views of it (rotation 9.0)"
    assert read.settings == words
    made = prepared(Kind(**GUIDED.model_dump(), views=views), dataset).extractor
    plain = prepared(GUIDED, dataset).extractor
    torch.testing.assert_close(made.extractor(images_of(dataset)), plain(images_of(dataset)))  # the one that is kept
    assert made.objective == plain.objective and made.objective is not None
    assert gives_posterior(GUIDED) and not gives_posterior(Kind(**GUIDED.model_dump(), views=views))


@pytest.mark.parametrize(
    ("views", "error", "words"),
    [
        ({"count": 0, "rotation": 9}, UserError, "views: given 0 with .*; allowed: 1 or more under a warp"),
        ({}, UserError, "views: given 4 with no warp; allowed: 1 or more under a warp"),
        ({"count": 2.5, "rotation": 9}, UserError, "views: given count 2.5; allowed: a whole number"),
        ({"rotatio": 9}, UserError, "rotatio"),
        ({"rotation": "much"}, UserError, "rotation"),
        ({"rotation": 400.0}, ModelError, "rotation: given 400.0; allowed: 0 to 180 degrees"),
        ({"hue": 0.1}, ModelError, "hue: given 0.1; allowed: 0, for these images have 1 channel"),
    ],
)
def test_what_cannot_be_is_told(views, error, words):
    with pytest.raises(error, match=words):
        with_views(Pixels((1, 28, 28)), views)


def test_a_benchmark_says_what_a_row_is_made_of(tmp_path, monkeypatch, capsys):
    config = tmp_path / "views.yaml"
    config.write_text(
        "dataset: {kind: glyphs, classes: 60}\n"
        "pretraining: {model: {trunk: conv, latents: 4}, training: {epochs: 1, batch_size: 64}, monitor: null}\n"
        "extractors:\n"
        "  plain: {kind: pretrain, objective: vae}\n"
        "  views: {kind: pretrain, objective: vae, views: {count: 2, rotation: 9.0}}\n"
        "learners: {prototypical: prototypical}\n"
        "episodes: {settings: [5w1s], count: 20}\n"
    )
    told = Shell(tmp_path, monkeypatch, capsys)("bench", str(config), "--out", str(tmp_path / "out"))
    assert told.status == 0, told.err
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    settings = {row["extractor"]: row["extractor_settings"] for row in rows}
    assert settings == {"plain": "", "views": "mean over the image and 2 views of it (rotation 9.0)"}
    assert rows[0]["accuracy"] != rows[1]["accuracy"]
