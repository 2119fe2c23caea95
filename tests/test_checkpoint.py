"""Files on disk: round trips, damaged ones, full disks, and nothing executed."""

import errno
import json
import os
import pickle
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from gvae.atomic import remove_leftovers, write_atomic
from gvae.checkpoint import ENCODER, load_encoder, load_state, load_weights, read_info, save_encoder, save_state
from gvae.errors import ModelError
from gvae.nets import TRUNKS, initialise
from gvae.vae import VAE
from metalearn.mistakes import Work, describe

ROOT = Path(__file__).parents[1]


def make(trunk="conv", shape=(1, 28, 28), latents=6, slots=None, seed=0, **options):
    vae = VAE(shape, trunk=trunk, latents=latents, slots=slots or {"rotation": 1, "content": latents - 1}, **options)
    initialise(vae, torch.Generator().manual_seed(seed))
    return vae


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_an_encoder_comes_back_as_it_was(trunk, likelihood, tmp_path):
    side = 64 if trunk.endswith("64") else 28
    vae = make(trunk, (1, side, side), likelihood=likelihood)
    images = torch.rand(4, 1, side, side, generator=torch.Generator().manual_seed(0))
    vae.encode(images)  # moves the running statistics, where there are any
    vae.eval()
    info = {"labels_used": "none", "training_classes": ["é/1"], "seconds": 1.5}
    path = save_encoder(tmp_path, vae, info)
    assert path == tmp_path / ENCODER
    for given in (path, tmp_path):
        read, found = load_encoder(given)
        assert not read.training and read.slots == vae.slots and read.likelihood == likelihood
        assert {name: found[name] for name in info} == info
        assert (found["trunk"], found["latents"], found["image_shape"]) == (trunk, 6, [1, side, side])
        for name, value in vae.state_dict().items():
            assert torch.equal(value, read.state_dict()[name])
        assert torch.equal(vae.encode(images).mean, read.encode(images).mean)
    assert json.loads((tmp_path / "encoder.json").read_text()) == found


def test_an_encoder_is_found_in_a_runs_checkpoints(tmp_path):
    save_encoder(tmp_path / "checkpoints", make(), {})
    assert load_encoder(tmp_path)[1]["latents"] == 6


def test_no_encoder_is_told_with_what_to_give(tmp_path):
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(ModelError, match=f"no encoder at {path}: give an encoder.safetensors, or the folder"):
            load_encoder(path)


def truncated(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage", [truncated, lambda d: d[:5], lambda d: b"", lambda d: b"<html>404</html>" * 9, lambda d: os.urandom(999)]
)
def test_a_damaged_encoder_is_refused(damage, tmp_path):
    path = save_encoder(tmp_path, make(), {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError) as caught:
        load_encoder(tmp_path)
    assert f"{path} is not a readable safetensors file (" in str(caught.value)
    assert "it is truncated or another kind" in str(caught.value)


def test_weights_of_another_program_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for data in (save({"weight": torch.zeros(3)}), save({"weight": torch.zeros(3)}, metadata={"format": "pt"})):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="holds weights but not an encoder written by this program; use a run's"):
            load_encoder(path)


def rewrite(tmp_path, change, vae=None):
    """Save an encoder whose metadata went through ``change``."""
    vae = vae or make()
    path = save_encoder(tmp_path, vae, {})
    header = json.loads((tmp_path / "encoder.json").read_text())
    change(header)
    path.write_bytes(save(vae.state_dict(), metadata={"gvae": json.dumps(header)}))
    return path


def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(tmp_path):
    path = rewrite(tmp_path, lambda header: header.update(trunk="release28"))
    with pytest.raises(ModelError) as caught:
        load_encoder(path)
    said = str(caught.value)
    assert f"{path} is a checkpoint of another architecture: missing " in said
    assert " more; build the network it was trained with" in said
    path = rewrite(tmp_path, lambda header: header.update(latents=7, slots={"content": 7}))
    with pytest.raises(ModelError, match=r"decoder.linear.0.weight is \(512, 6\), the network has \(512, 7\)"):
        load_encoder(path)


def test_another_schema_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has schema 99, this version reads schema 1"):
        load_encoder(rewrite(tmp_path, lambda header: header.update(schema=99)))


@pytest.mark.parametrize("key", ["schema", "image_shape", "trunk", "latents", "slots"])
def test_metadata_without_a_needed_key_are_refused(key, tmp_path):
    with pytest.raises(ModelError, match=f"the metadata of .* is damaged .*{key}.*; copy it again or train it again"):
        load_encoder(rewrite(tmp_path, lambda header: header.pop(key)))


@pytest.mark.parametrize("text", ["{", "[]", "3", "null"])
def test_metadata_that_are_no_mapping_are_refused(text, tmp_path):
    path = save_encoder(tmp_path, make(), {})
    path.write_bytes(save(make().state_dict(), metadata={"gvae": text}))
    with pytest.raises(ModelError, match="the metadata of .* is damaged"):
        load_encoder(path)


def test_surplus_weights_are_named():
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="here is a checkpoint of another architecture: unknown extra; build the netw"):
        load_weights(linear, {**linear.state_dict(), "extra": torch.zeros(1)}, "here")


def only(path):
    return sorted(entry.name for entry in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("failing", ["write", "fsync", "replace", "interrupt"])
def test_what_goes_wrong_while_writing_leaves_the_previous_file_and_nothing_else(failing, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write_atomic(path, lambda file: file.write(b"previous"))
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*arguments):
        raise full

    def write(file):
        file.write(b"half of the n")
        if failing == "write":
            raise full
        if failing == "interrupt":
            raise KeyboardInterrupt

    if failing in ("fsync", "replace"):
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(KeyboardInterrupt if failing == "interrupt" else OSError):
        write_atomic(path, write)
    assert path.read_bytes() == b"previous" and only(path)


def test_a_disk_full_while_saving_a_state_keeps_the_previous_one_and_is_told_as_such(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left") as caught:
        save_state(path, {"step": 2, "weights": torch.zeros(10_000)})
    assert f"disk full while writing {path}" in describe(caught.value, Work())
    assert load_state(path) == {"step": 1} and only(path)


def test_a_written_file_is_whole_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, lambda file: file.write(b"a" * 100))
    write_atomic(path, lambda file: file.write(b"b"))
    assert path.read_bytes() == b"b" and only(path)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permission_bits_follow_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", lambda file: file.write(b"x"))
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"step": 3, "identity": {"seed": 0, "slots": ["a"]}, "weights": {"w": torch.arange(3.0)}, "x": None}
    save_state(tmp_path / "s.pt", state)
    read = load_state(tmp_path / "s.pt")
    assert torch.equal(read["weights"].pop("w"), state["weights"].pop("w")) and read == state


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_malicious_state_is_refused_and_not_executed(write, tmp_path):
    proof, path = tmp_path / "executed", tmp_path / "state.pt"
    write({"step": Malicious(str(proof))}, path)
    with pytest.raises(ModelError, match="is not a readable training state"):
        load_state(path)
    assert not proof.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert proof.exists()  # it would have been


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_garbage_is_more_than_a_model_error(tmp_path):
    """Flipped, cut and random bytes: torch.load raises a dozen kinds of errors on them."""
    path, draw = tmp_path / "state.pt", random.Random(0)
    save_state(path, {"step": 3, "weights": torch.zeros(50)})
    whole = path.read_bytes()
    for _ in range(100):
        flipped = bytearray(whole)
        for _ in range(4):
            flipped[draw.randrange(len(whole))] = draw.randrange(256)
        noise = draw.randbytes(draw.choice([1, 3, 10, 300]))
        for data in (bytes(flipped), whole[: draw.randrange(len(whole))], noise, b"\x80\x02" + noise):
            path.write_bytes(data)
            try:
                assert isinstance(load_state(path), dict)
            except ModelError as error:
                assert "remove it to start again" in str(error)


def test_a_state_that_is_no_mapping_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "s.pt")
    with pytest.raises(ModelError, match=r"is not a readable training state \(a list\)"):
        load_state(tmp_path / "s.pt")


def test_an_encoders_info_is_read_without_its_weights(tmp_path, monkeypatch):
    path = save_encoder(tmp_path, make(), {"training_classes": ["a"]})
    assert read_info(tmp_path) == load_encoder(path)[1]
    path.write_bytes(path.read_bytes()[:-4])
    for read in (read_info, load_encoder):
        with pytest.raises(ModelError, match="is not a readable safetensors file"):
            read(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from gvae.atomic import write_atomic

def write(file):
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.read()

write_atomic(Path(sys.argv[1]), write)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    """Two processes in the middle of a write; one of them is killed, the other ends its file after the removal."""
    def begin(name):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "deep" / name], **pipes, cwd=ROOT)
        assert process.stdout.readline() == b"writing\n"
        return process

    killed, alive = begin("meta.pt"), begin("state.pt")
    killed.kill()
    killed.wait()
    kept = [tmp_path / "deep" / name for name in (".lock", ".hidden.partial", "meta.pt", ".meta.pt.0123456")]
    for path in kept:
        path.write_bytes(b"mine")
    (tmp_path / ".folder.01234567").mkdir()
    assert len(list(tmp_path.rglob(".*.pt.????????"))) == 2
    remove_leftovers(tmp_path)
    (left,) = tmp_path.rglob(".*.pt.????????")
    assert left.name.startswith(".state.pt.") and all(path.read_bytes() == b"mine" for path in kept)
    alive.communicate(b"")
    assert alive.returncode == 0 and (tmp_path / "deep" / "state.pt").read_bytes() == b"half"
    assert (tmp_path / ".folder.01234567").is_dir()
    remove_leftovers(tmp_path / "none")
