"""What cannot be meta-trained is refused before any pretraining, by train and by bench, in one message."""

from pathlib import Path

import pytest
from test_jobs import DATA, TRAIN, run

from metalearn.learners.logistic import Logistic
from metalearn.record import read_metrics

VAE, GUIDED = "{kind: pretrain, objective: vae}", "{kind: pretrain, objective: guided_vae}"
CASES = {  # name: (extractor, learner, auxiliary, what is said)
    "solver": (
        VAE, "logistic", "", "learner Logistic cannot be meta-trained: its solver passes no gradient to the features\n"
    ),
    "iterations": (VAE, "baseline++", "", "learner BaselinePlusPlus cannot be meta-trained: its solver passes no"),
    "centre": (VAE, "simpleshot", "", "learner simpleshot cannot be meta-trained: it tests features that are trained"),
    "copy": (VAE, "finetune", "", "learner finetune cannot be meta-trained: it starts each episode from a trained"),
    "parameters": ("pixels", "ridge", "", "learner Ridge has no trainable parameter: give it an extractor with weig"),
    "pixels": ("pixels", "maml", "objective: vae", "auxiliary: extractor Pixels is no encoder of a VAE; allowed: k"),
    "no objective": (
        "random", "maml", "weight: 0.1",
        "auxiliary.objective: given nothing, and extractor RandomNetwork was pretrained by none; allowed: an objective",
    ),
    "slots": (GUIDED, "maml", "objective: vae", "auxiliary.objective: slot_sizes is {'rotation': 1, 'scale': 1"),
    "release": (
        "random", "maml", "objective: {kind: guided_vae_supervised, form: release, class_latents: 4}",
        "auxiliary.objective: form 'release' moves the encoder twice a batch; allowed: form: joint\n",
    ),
    "images": (VAE, "maml", "batch_size: 241", "auxiliary.batch_size: given 241; allowed: 2 to 240, the training im"),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("untrainable")


@pytest.fixture(autouse=True)
def untouched(home, monkeypatch) -> None:
    """No encoder is pretrained, or looked for."""
    monkeypatch.setenv("METALEARN_CACHE", str(home / "cache"))
    (home / "cache").mkdir(exist_ok=True)
    for name in ("pretrain_encoder", "kept_encoder"):
        monkeypatch.setattr(f"metalearn.prepare.{name}", lambda *_, **__: pytest.fail("it began to work"))


@pytest.mark.parametrize("name", CASES)
def test_by_train(name, home, monkeypatch, capsys):
    extractor, learner, auxiliary, words = CASES[name]
    text = TRAIN.replace("KIND", learner).replace("SETTING", "3w1s")
    text = text.replace("extractor: random", f"extractor: {extractor}")
    if auxiliary:
        text = text.replace("eval_episodes: 5}", f"eval_episodes: 5, auxiliary: {{{auxiliary}}}}}")
    assert run(home, "train", text, f"train-{name}", monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}") and said.count("\n") == 1
    assert read_metrics(home / f"train-{name}" / "metrics.jsonl") == []
    assert not list((home / f"train-{name}").glob("checkpoints/*"))


@pytest.mark.parametrize(("ways", "learner", "words"), [
    (4, "maml", "eval_ways: given 4; learner maml has a head for the 3 classes of its training episodes"),
    (1, "prototypical", "training.eval_ways: given 1 (integer); allowed: greater than or equal to 2"),
    (5000, "prototypical", "ways=5000, but the data has only"),
])  # fmt: skip
def test_validation_episodes_that_cannot_be(ways, learner, words, home, monkeypatch, capsys):
    text = TRAIN.replace("KIND", learner).replace("SETTING", "3w1s")
    text = text.replace("eval_episodes: 5}", f"eval_episodes: 5, eval_ways: {ways}}}")
    assert run(home, "train", text, f"ways-{ways}", monkeypatch) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: ") and said.count("\n") == 1


class Blind(Logistic):
    """Says that it is meta-trained, and cannot be."""

    meta_trained = True


IN_A_BENCHMARK = {name: case for name, case in CASES.items() if case[1] == "maml"} | {
    "solver": (VAE, "test_untrainable:Blind", "", "learner Blind cannot be meta-trained: its solver passes no gradient")
}


@pytest.mark.parametrize("name", IN_A_BENCHMARK)
def test_by_bench(name, home, monkeypatch, capsys):
    """One extractor with one learner of several: said with their names."""
    extractor, learner, auxiliary, words = IN_A_BENCHMARK[name]
    text = f"""{DATA}
extractors: {{first: {extractor}, second: random}}
pretraining: {{model: {{latents: 12}}}}
learners: {{proto: prototypical, head: {learner}}}
meta_training: {{queries: 5{", auxiliary: {" + auxiliary + "}" if auxiliary else ""}}}
episodes: {{settings: [3w1s], queries: 5, count: 20}}
"""
    assert run(home, "bench", text, f"bench-{name}", monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: learners.head on extractors.first: {words}") and said.count("\n") == 1
    assert not list((home / f"bench-{name}").glob("checkpoints/*"))
