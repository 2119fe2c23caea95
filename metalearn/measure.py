"""``metalearn measure``: what an encoder's latents tell of the known factors of images that it never saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from gvae.checkpoint import ENCODER, load_encoder
from gvae.losses import kl_to_standard_normal
from gvae.metrics import METRICS, FactorCodes, varying
from gvae.recorder import Recorder
from gvae.traverse import guided_latents, latent_names, tile, traversal
from gvae.vae import VAE
from metalearn.cache import tensors_fingerprint
from metalearn.config import check, override
from metalearn.data import build_dataset
from metalearn.errors import UserError
from metalearn.extractor_table import require_provenance
from metalearn.kinds import TABLES, check_kind
from metalearn.measured import Measurement, Score, make_score
from metalearn.pictures import heat_map, traversals
from metalearn.prepare import refuse_shared_classes
from metalearn.run import Run
from metalearn.schema import MeasureConfig
from tasks.splits import Partition

BATCH = 512
SHOWN = 4  # images whose latents are swept, evenly spread over the part


class Encoded(NamedTuple):
    """Posterior means of a part's images (n, d) and the mean KL of each latent (d,), nats."""

    codes: Float[np.ndarray, "n d"]
    kl: Float[np.ndarray, " d"]


def measure(config: MeasureConfig, run: Run, *, data_root: Path, device: str) -> None:
    """Write measure.json, report.md and pictures of the encoder: metrics, KL per latent, traversals, importance.

    Metrics need a dataset with known factors; without, they are left out and the report says so. Raises UserError
    when the encoder's training saw a class of the part that is measured.
    """
    vae, info = load_encoder(Path(config.checkpoint))
    require_provenance(config.checkpoint, info)
    dataset = build_dataset(config.dataset, data_root, run.report)
    part = getattr(dataset, config.part)
    refuse_shared_classes("checkpoint", frozenset(info["training_classes"]), part)
    vae.to(device)
    found = encode(vae, part, device, run)
    names = latent_names(vae)
    draw_traversals(vae, part, run, device)
    factors = varying(part.factors)
    scores, matrices = score(found.codes, factors, config, run) if factors else ([], {})
    result = Measurement(
        checkpoint=config.checkpoint, encoder=tensors_fingerprint(vae),
        objective=info.get("objective", {}).get("kind", "unknown"),
        labels_used=info["labels_used"], dataset=dataset.label, part=config.part, images=len(part.labels),
        fingerprint=part.fingerprint, repeats=config.repeats, seed=config.seed,
        kl_per_latent=dict(zip(names, map(float, found.kl), strict=True)), factors=list(factors),
        unvarying=[name for name in part.factors if name not in factors], scores=scores,
        matrices={name: matrix.tolist() for name, matrix in matrices.items()},
    )  # fmt: skip
    for name, matrix in matrices.items():
        title = f"{name}: what each latent is worth for each factor, mean of {config.repeats}"
        run.show_figure(f"importance-{name}", heat_map(matrix, names, list(factors), title))
    kl = {f"kl_per_latent/{name}": value for name, value in result.kl_per_latent.items()}
    metrics = {f"metric/{item.name}": item.mean for item in scores}
    run.numbers(0, kl)
    if metrics:
        run.scalars(0, metrics)
    run.write_json("measure.json", result.to_dict())
    report = result.markdown()
    run.write_text("report.md", report)
    run.text(0, "report", report)
    run.finish({"images": result.images, "values": kl | metrics})


def encode(vae: VAE, part: Partition, device: str, recorder: Recorder) -> Encoded:
    """Encode every image of a part. Raises ModelError for images of another shape than the encoder's."""
    total, codes, kl = len(part.labels), [], torch.zeros(vae.latents, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, total, BATCH):
            index = np.arange(start, min(start + BATCH, total))
            posterior = vae.encode(torch.from_numpy(part.gather(index)).to(device).float().mul_(1 / 255))
            codes.append(posterior.mean.cpu())
            kl += kl_to_standard_normal(*posterior).sum(0).cpu()
            recorder.progress(len(index) + start, total, "codes")
    return Encoded(torch.cat(codes).numpy(), (kl / total).numpy())


def score(
    codes: Float[np.ndarray, "n d"], factors: Mapping[str, np.ndarray], config: MeasureConfig, recorder: Recorder
) -> tuple[list[Score], dict[str, Float[np.ndarray, "d k"]]]:
    """Compute each metric ``config.repeats`` times; return its numbers and, by metric, the mean of its matrices.

    The draws of a repeat are those of (seed, repeat), whichever metrics are chosen. Raises UserError when two metrics
    give a number of the same name, and ModelError for an option out of range.
    """
    given = FactorCodes(codes, factors)
    choices = [check_kind("metric", kind, METRICS, TABLES["metric"].skip) for kind in config.metrics]
    scores: dict[str, Score] = {}
    matrices: dict[str, Float[np.ndarray, "d k"]] = {}
    total = len(choices) * config.repeats
    for place, choice in enumerate(choices):
        results = []
        for repeat in range(config.repeats):
            recorder.progress(place * config.repeats + repeat, total, f"metrics, {choice.kind.kind}")
            generator = np.random.default_rng([config.seed, repeat])
            results.append(choice.build(given, generator, **choice.options))
        for name in results[0].values:
            if name in scores:
                raise UserError(f"metrics.{place}: {choice.kind.kind!r} gives {name!r} as another does; name only one")
            values = [result.values[name] for result in results]
            scores[name] = make_score(name, values, results[0].drawn, choice.options)
        found = [result.matrix for result in results if result.matrix is not None]
        if found:
            matrices[choice.kind.kind] = np.mean(found, 0)
    recorder.progress(total, total, "metrics")
    return list(scores.values()), matrices


def draw_traversals(vae: VAE, part: Partition, run: Run, device: str) -> None:
    """Write ``traversals-K.png`` of ``SHOWN`` images spread over the part; show those of the guided latents too."""
    chosen = np.unique(np.linspace(0, len(part.labels) - 1, SHOWN).astype(np.int64))
    images = torch.from_numpy(part.gather(chosen)).to(device).float().mul_(1 / 255).split(1)
    names = latent_names(vae)
    with torch.no_grad():
        for place, image in enumerate(images):
            title = f"image {int(chosen[place])} of the {part.name} part; a row a latent, -2.5 to 2.5"
            swept = traversal(vae, image, list(range(vae.latents)))
            run.show_figure(f"traversals-{place}", traversals(swept, names, title))
        for latent in guided_latents(vae):
            rows = torch.cat([traversal(vae, image, [latent]) for image in images])
            run.images(0, f"traversal/{names[latent]}", tile(rows))


def checkpoint_config(path: Path, overrides: Sequence[str]) -> MeasureConfig:
    """Return the config that measures a checkpoint on the dataset it was trained on, test part, by default.

    Raises UserError when the checkpoint does not say how to build that dataset, ModelError when it is none.
    """
    _, info = load_encoder(path)
    given: dict[str, Any] = {"checkpoint": str(path)}
    if info.get("dataset_settings"):
        given["dataset"] = info["dataset_settings"]
    data = override(given, overrides)
    if "dataset" not in data:
        raise UserError(
            f"checkpoint {path} does not say how to build the dataset it was trained on "
            f"({info.get('dataset', 'not named')}), as earlier versions did not record it; name it: "
            "--set dataset.kind=NAME, or give a YAML file with the keys checkpoint and dataset"
        )
    return check(data, MeasureConfig, f"measure {path}")


def default_out(path: Path) -> Path:
    """Return the run directory of a measured checkpoint where none is given: ``runs/measure-<its run's name>``."""
    place = path.resolve()
    place = place.parent if place.name == ENCODER else place
    place = place.parent if place.name == "checkpoints" else place
    return Path("runs") / f"measure-{place.name.removesuffix('.safetensors')}"
