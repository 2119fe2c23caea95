"""Features of a part of a dataset, extracted once and kept by weights and images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvae.share import ALONE, Share
from metalearn.cache import key_of, read_tensor, weights_fingerprint, write_tensor
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor
from tasks.resident import DeviceImages
from tasks.splits import Partition

BATCH = 512


def extract(
    extractor: FeatureExtractor,
    images: Partition | DeviceImages,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    share: Share = ALONE,
) -> Float[Tensor, "n d"]:
    """Return the features of every image of a part, float32 on the CPU; read from ``cache`` where they are kept.

    images: a part, or its images on ``device`` already.
    The key is the network (weights, settings, code), the images and the kind of device, whose arithmetic differs,
    so no stale feature is read; a damaged entry is extracted again. Of several processes each passes a ``share`` of the
    images, in the batches of one process, and all return all features. Raises UserError for features of the wrong shape
    or not finite.
    """
    partition = images.partition if isinstance(images, DeviceImages) else images
    path = kept = None
    if cache is not None:
        key = key_of(weights=weights_fingerprint(extractor), images=partition.fingerprint, device=device.split(":")[0])
        path = cache / "features" / f"{key}.safetensors"
        kept = read_tensor(path)
        having = torch.tensor(kept is not None, dtype=torch.int64, device=device)
        share.add([having])
        if kept is not None and having == share.processes:
            return kept
    extractor = extractor.to(device).eval()
    total = len(partition.labels)
    batches = -(-total // BATCH)
    first, stop = (min(total, batches * rank // share.processes * BATCH) for rank in (share.rank, share.rank + 1))
    where = device if share.processes > 1 else "cpu"
    features = torch.zeros(total, extractor.feature_dim, dtype=torch.float32, device=where)
    with torch.no_grad():
        # each image is needed once: none is kept
        source = images if isinstance(images, DeviceImages) else DeviceImages(partition, device, share=0.0)
        own = source.batches(np.arange(first, stop), BATCH)
        for start, some in zip(range(first, stop, BATCH), own, strict=True):
            features[start : start + len(some)] = _checked(extractor(some), len(some), extractor)
            progress(start + len(some) - first, stop - first, "features")
    share.add([features])
    features = features.cpu()
    if not torch.isfinite(features).all():
        raise UserError(f"{type(extractor).__name__} gives features that are not finite; its weights are damaged")
    if path is not None and kept is None:
        write_tensor(path, features)
    return features


def _checked(features: Tensor, images: int, extractor: FeatureExtractor) -> Tensor:
    if tuple(features.shape) != (images, extractor.feature_dim):
        raise UserError(
            f"{type(extractor).__name__} gave features of shape {tuple(features.shape)} for {images} images; "
            f"allowed: ({images}, feature_dim) with its feature_dim = {extractor.feature_dim}"
        )
    return features
