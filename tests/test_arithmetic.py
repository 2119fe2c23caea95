"""How a run computes is undone at its end, and changes nothing but the last bits."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import gvae.arithmetic as arithmetic
from gvae.arithmetic import compiled, float32_products, memory_layout
from gvae.errors import ModelError
from gvae.nets import initialise
from gvae.objectives import OBJECTIVES
from gvae.pretrain import Training, computing, pretrain
from gvae.share import ALONE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (3, 16, 16)


def make(trunk="conv", seed=0):
    return OBJECTIVES["vae"](SHAPE, 3, 24, seed, trunk, 6)


def run(objective, **options):
    images = torch.randint(0, 256, (24, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    training = Training(**{"epochs": 2, "batch_size": 6, "checkpoint_seconds": 0.0, **options})
    return pretrain(objective, images, torch.arange(24) // 8, training=training, seed=0)


def switches():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "device", "products", "convolutions"),
    [
        ("float32", CUDA, "highest", False), ("tf32", CUDA, "high", True), ("auto", CUDA, "high", True),
        ("bfloat16", CUDA, "high", True), ("auto", CPU, "highest", False), ("float32", CPU, "highest", False),
    ],
)  # fmt: skip
def test_the_switches_for_float32_products_are_the_runs_own(precision, device, products, convolutions):
    before = switches()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = not convolutions
        outside = switches()
        with float32_products(precision, device):
            assert switches() == (products, convolutions)
        assert switches() == outside
        with pytest.raises(ZeroDivisionError), float32_products(precision, device):
            _ = 1 / 0
        assert switches() == outside
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_tf32_on_a_cpu_is_refused_with_what_is_allowed():
    words = "training.precision: given 'tf32' on device 'cpu', .*; allowed here: auto, bfloat16, float32"
    with pytest.raises(ModelError, match=words):
        run(make(), precision="tf32")


@pytest.mark.parametrize("trunk", ["conv", "conv4"])
def test_a_layout_changes_the_last_bits_only_and_is_undone(trunk):
    inside = []

    class Spy(torch.nn.Module):
        def forward(self, maps):
            inside.append(maps.is_contiguous(memory_format=torch.channels_last))
            return maps

    objective = make(trunk)
    whole = run(make(trunk), memory_format="contiguous")
    objective.vae.encoder.layers.append(Spy())
    changed = run(objective, memory_format="channels_last")
    assert inside and all(inside[:8])
    assert all(value.is_contiguous() for value in changed.state_dict().values())
    one, other = (torch.cat([value.flatten() for value in end.parameters()]) for end in (whole, changed))
    assert 0 < (one - other).norm() / one.norm() < 1e-3


def test_a_layout_is_undone_after_an_error_too():
    network = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(ZeroDivisionError), memory_layout(network, "channels_last"):
        assert not network.weight.is_contiguous()
        _ = 1 / 0
    assert network.weight.is_contiguous()


def test_compiled_without_a_compiler_says_what_to_do(monkeypatch):
    monkeypatch.setattr(arithmetic.shutil, "which", lambda name: None)
    words = r"training.compile: given true, but there is no compiler \(looked for {}, cl\); install one, or leave"
    with pytest.raises(ModelError, match=words.format(r"CXX, g\+\+, clang\+\+")):
        run(make(), compile=True)
    with pytest.raises(ModelError, match=words.format("CC, gcc, clang")), compiled([], True, CUDA):
        pass


def test_only_training_is_compiled_and_only_within_the_run(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function: made.append(function) or (lambda inputs: inputs * 0))
    monkeypatch.setattr(arithmetic.shutil, "which", lambda name: name)
    network = torch.nn.Linear(2, 2)
    inputs = torch.ones(1, 2)
    plain = network(inputs)
    with compiled([network], True, CPU):
        assert not network(inputs).any()
        network.eval()
        assert torch.equal(network(inputs), plain)
    network.train()
    assert torch.equal(network(inputs), plain) and len(made) == 1
    assert "forward" not in vars(network)
    with compiled([network], False, CPU):
        assert torch.equal(network(inputs), plain)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_ends_near_the_same_weights(tmp_path):
    """Apart from the shape checks of the other tests, which a compiler cannot see through."""
    script = textwrap.dedent("""
        import torch
        from functools import partial
        from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
        from gvae.objectives import OBJECTIVES
        from gvae.pretrain import Training, pretrain
        TRUNKS["tiny"] = (partial(ConvEncoder, widths=(4, 4)), partial(ConvDecoder, widths=(4, 4)))
        images = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        ends = []
        for compiled in (False, True):
            objective = OBJECTIVES["guided_vae"]((3, 16, 16), 3, 24, 0, "tiny", 8)
            training = Training(epochs=2, batch_size=6, compile=compiled)
            ends.append(pretrain(objective, images, torch.arange(24) // 8, training=training, seed=0).state_dict())
        from torch._dynamo.utils import counters
        assert counters["stats"]["unique_graphs"] == 2, counters  # the encoder and the decoder, each once
        assert not counters["graph_break"], counters
        plain, made = (torch.cat([value.flatten().float() for value in end.values()]) for end in ends)
        print(float((made - plain).norm() / plain.norm()))
    """)
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-3


def test_everything_is_undone_together():
    objective, before = make(), switches()
    names = list(objective.state_dict())
    initialise(objective, torch.Generator().manual_seed(1))
    with computing(objective, Training(memory_format="channels_last"), CPU, ALONE):
        assert not objective.vae.encoder.layers[3].weight.is_contiguous()
    assert objective.vae.encoder.layers[3].weight.is_contiguous()
    assert switches() == before and list(objective.state_dict()) == names
