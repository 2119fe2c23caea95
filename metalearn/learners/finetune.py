"""Fine-tuning: the whole network, extractor and head, trained on the support set of each episode."""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.learners.base import Classifier, Learner, class_counts, require_positive


class FineTune(Learner):
    """The whole network fine-tuned on each support set: ``steps`` of Adam or SGD from the extractor as it is.

    The fine-tuning baseline of Chen et al. 2019 and Dhillon et al. 2020 (section 3, without their transduction): a
    copy of the extractor with a linear head that starts at zero minimises the mean cross-entropy of the support set.
    ``learning_rate`` is that of the extractor, ``head_learning_rate`` that of the head. The copy is in eval mode:
    batch norm normalises with the running statistics, dropout is off, so there is no chance in it. The extractor
    itself never changes. A parameter that does not require a gradient stays as it is.
    """

    reference = "Dhillon et al. 2020, A Baseline for Few-Shot Image Classification, ICLR, arXiv 1909.02729"

    def __init__(
        self,
        extractor: nn.Module | None = None,
        *,
        optimizer: Literal["adam", "sgd"] = "adam",
        steps: int = 50,
        learning_rate: float = 1e-3,
        head_learning_rate: float = 1e-2,
    ):
        super().__init__()
        require_positive(
            "finetune", steps=steps, learning_rate=learning_rate, head_learning_rate=head_learning_rate
        )  # fmt: skip
        self.extractor, self.optimizer, self.steps = extractor, optimizer, steps
        self.learning_rate, self.head_learning_rate = learning_rate, head_learning_rate

    def adapt(self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"]) -> Classifier:
        """See ``Learner.adapt``. Its logits carry no gradient.

        Raises UserError without an extractor, and when the support loss stops being finite.
        """
        if self.extractor is None:
            raise UserError("learner finetune needs an extractor: it trains a copy of it, not features")
        ways = len(class_counts(labels))
        body = copy.deepcopy(self.extractor).eval()
        with torch.no_grad():
            features = body(images)
        head = nn.utils.skip_init(nn.Linear, features.shape[1], ways, device=features.device, dtype=features.dtype)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        network = nn.Sequential(body, head)
        groups = [
            {"params": [p for p in body.parameters() if p.requires_grad], "lr": self.learning_rate},
            {"params": list(head.parameters()), "lr": self.head_learning_rate},
        ]
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.optimizer](groups)
        with torch.enable_grad():
            for step in range(self.steps):
                loss = F.cross_entropy(network(images), labels)
                if not loss.isfinite():
                    raise UserError(
                        f"learner finetune: the support loss is {loss.item()} at step {step}; lower learning_rate or "
                        "head_learning_rate"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        def classifier(query_images: Tensor) -> Tensor:
            with torch.no_grad():
                return network(query_images)

        return classifier

    def require_meta_trainable(self) -> None:
        """Raises UserError: its steps are not differentiated through."""
        raise UserError(
            "learner finetune cannot be meta-trained: it starts each episode from a trained extractor; 'maml' is the "
            "same with an initialisation that is learned for it"
        )
