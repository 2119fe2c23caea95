"""The dual of the support vector machine of Crammer and Singer: a batch of them solved at once, and its gradient."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metalearn.errors import UserError


class DualSVM(torch.autograd.Function):
    """``argmin over A of tr(A' (K + I) A) / 2 - <Y, A>`` where ``A <= C Y`` and rows of A sum to 0.

    Inputs: K (b, n, n), symmetric; Y (n, ways), one-hot; C; tolerance; the most iterations. Outputs: A (b, n, ways)
    and which of the b problems converged. Gradients go to K, once (no second order): where A is not at its bound, it
    moves as the linear system there says; at its bound it does not move.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: Tensor, y: Tensor, C: float, tolerance: float, max_iterations: int
    ) -> tuple[Tensor, Tensor]:
        """Solve."""
        dual, converged = solve(kernel, y, C, tolerance, max_iterations)
        ctx.save_for_backward(kernel, dual, C * y - dual > 0)
        ctx.mark_non_differentiable(converged)
        return dual, converged

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        """``dA = -S dK A``, where S inverts K + I on the directions in which A can move."""
        kernel, dual, free = ctx.saved_tensors
        moved = solve_on_face(kernel, free, grad)
        product = moved @ dual.mT
        return -(product + product.mT) / 2, None, None, None, None


def solve(
    kernel: Float[Tensor, "b n n"], y: Float[Tensor, "n ways"], C: float, tolerance: float, max_iterations: int
) -> tuple[Float[Tensor, "b n ways"], Bool[Tensor, " b"]]:
    """Accelerated projected gradient (Beck & Teboulle 2009), restarted where the momentum points uphill.

    Converged means ``L |B - A| <= tolerance C sqrt(n)`` for a step of length 1 / L from B to A: as the objective is
    1-strongly convex and L bounds its curvature, A is then no further than that from the optimum. A problem that has
    converged no longer moves, so the result does not depend on which problems share a batch.
    """
    bound = 1 + kernel.abs().sum(-1).amax(-1)[:, None, None]  # Gershgorin: no eigenvalue of K + I is larger
    limit = tolerance * C * len(y) ** 0.5
    now = torch.zeros_like(y).expand(len(kernel), -1, -1).contiguous()
    ahead, pace = now, torch.ones_like(bound)
    converged = torch.zeros(len(kernel), dtype=torch.bool, device=kernel.device)
    for _ in range(max_iterations):
        step = project(ahead - (kernel @ ahead + ahead - y) / bound, y, C)
        far = (bound * (ahead - step)).square().sum((1, 2)).sqrt() > limit
        uphill = ((ahead - step) * (step - now)).sum((1, 2), keepdim=True) > 0
        faster = (1 + (1 + 4 * pace.square()).sqrt()) / 2
        drift = torch.where(uphill, 0.0, (pace - 1) / faster)
        moving = ~converged[:, None, None]
        ahead = torch.where(moving, step + drift * (step - now), ahead)
        now = torch.where(moving, step, now)
        pace = torch.where(uphill, 1.0, faster)
        converged = converged | ~far
        if converged.all():
            break
    return now, converged


def project(a: Float[Tensor, "b n ways"], y: Float[Tensor, "n ways"], C: float) -> Float[Tensor, "b n ways"]:
    """Nearest point with ``A <= C Y`` and rows that sum to 0.

    ``C Y - A`` is then in the simplex of sum C; Held, Wolfe & Crowder 1974: subtract from all the amount that leaves
    C above zero.
    """
    slack = C * y - a
    ordered = slack.sort(-1, descending=True).values
    counts = torch.arange(1, a.shape[-1] + 1, dtype=a.dtype, device=a.device)
    amounts = (ordered.cumsum(-1) - C) / counts
    last = (ordered > amounts).sum(-1, keepdim=True) - 1
    return C * y - (slack - amounts.gather(-1, last)).clamp_min(0)


def solve_on_face(
    kernel: Float[Tensor, "b n n"], free: Bool[Tensor, "b n ways"], right: Float[Tensor, "b n ways"]
) -> Float[Tensor, "b n ways"]:
    """Solve ``P (K + I) P V = P right`` by conjugate gradients.

    P projects on what is zero outside ``free`` and has rows that sum to 0. Raises UserError when rounding keeps the
    residual above 1e-9 of its start.
    """
    counts = free.sum(-1, keepdim=True).clamp_min(1)

    def inside(v: Tensor) -> Tensor:
        v = v * free
        return v - free * (v.sum(-1, keepdim=True) / counts)

    residual = inside(right)
    solution, direction = torch.zeros_like(residual), residual
    energy = residual.square().sum((1, 2), keepdim=True)
    limit = 1e-24 * energy
    for _ in range(20 * free[0].numel()):
        going = energy > limit
        if not going.any():
            break
        curved = inside(kernel @ direction + direction)
        rate = torch.where(going, energy / (direction * curved).sum((1, 2), keepdim=True), 0.0)
        solution, residual = solution + rate * direction, residual - rate * curved
        previous, energy = energy, residual.square().sum((1, 2), keepdim=True)
        direction = residual + torch.where(going, energy / previous, 0.0) * direction
    if (energy > 1e6 * limit).any():
        raise UserError("learner svm: its gradient cannot be solved for; bring the features to a smaller scale")
    return solution
