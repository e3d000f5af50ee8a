"""Model of one objective: a Gaussian process of scikit-learn with priors on its scales."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.samplers.structural.scaling import Group
from search.samplers.structural.transform import Transform

Matrix = NDArray[np.float64]

LENGTH, MINOR_LENGTH = 2.0, 5.0
"""Prior medians of length scales; 1 is the spread of a group over random points."""
WEIGHT, MINOR_WEIGHT = 0.3, 0.03
"""Prior medians of the linear weights, in units of the observed variance."""
VARIANCE, NOISE = 0.5, 1e-3
"""Prior medians of the variances of the Matern part and of the noise."""
DEVIATION = 1.0
"""Standard deviation of the logarithm of every scale under its prior."""
STEPS = 40
"""Iterations of L-BFGS from the prior medians."""
JITTER = 1e-8
"""Smallest variance of noise, in units of the observed variance."""
BLOCK = 500
"""Number of points that are predicted at a time, so that intermediate arrays stay in caches."""
FITTED = 150
"""Largest number of records to which the scales are fitted; the model learns from all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Posterior of one objective over scaled features."""

    process: Any
    """The fitted GaussianProcessRegressor."""
    transform: Transform
    columns: NDArray[np.intp]
    """The features that the objective depends on."""
    mean: float
    spread: float

    @classmethod
    def fit(
        cls,
        features: Matrix,
        losses: Matrix,
        deviations: Matrix,
        groups: Sequence[Group],
        ideal: float | None = None,
    ) -> "Model":
        """Fit a model to records, in their order.

        `features` are records x features, of which the columns of `groups` are used; `deviations`
        are standard deviations of the noise of `losses`, 0 where unknown. Below the loss `ideal`
        less is worth no more.
        """
        columns = np.concatenate([np.arange(g.start, g.stop) for g in groups])
        transform = Transform.of(losses, ideal, deviations)
        values = transform.forward(losses)
        chosen = fitted(len(values))
        mean, spread = float(values[chosen].mean()), float(values[chosen].std()) or 1.0
        targets = (values - mean) / spread
        alpha = (transform.deviations(losses, deviations) / spread) ** 2 + JITTER
        sizes = tuple(g.stop - g.start for g in groups)
        minor = tuple(g.minor for g in groups)
        used = np.ascontiguousarray(features[:, columns])
        parts = (np.ascontiguousarray(part[chosen]).tobytes() for part in (used, targets, alpha))
        scales = _scales(*parts, sizes, minor)
        process = _process(sizes, np.array(scales), alpha, None).fit(used, targets)
        return cls(process=process, transform=transform, columns=columns, mean=mean, spread=spread)

    def predict(self, features: Matrix) -> tuple[Matrix, Matrix]:
        """Return mean and standard deviation of points in the model's units."""
        used = features[:, self.columns]
        with warnings.catch_warnings():
            # Variances at known points may be negative by rounding, and are set to 0.
            warnings.filterwarnings("ignore", "Predicted variances smaller than 0")
            parts = [
                self.process.predict(used[i : i + BLOCK], return_std=True)
                for i in range(0, len(used), BLOCK)
            ]
        mean, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self.mean + self.spread * mean, np.maximum(self.spread * spread, 1e-9)

    def believing(self, features: Matrix) -> "Model":
        """Return the model conditioned on its own mean at points, which makes it sure of them."""
        used = features[:, self.columns]
        mean = self.process.predict(used)
        process = self.process
        alpha = np.concatenate([process.alpha, np.full(len(used), JITTER)])
        kernel = process.kernel_
        conditioned = _process(np.diff((0, *kernel.ends)).tolist(), kernel.scales, alpha, None).fit(
            np.vstack([process.X_train_, used]), np.concatenate([process.y_train_, mean])
        )
        return dataclasses.replace(self, process=conditioned)

    def explained(self) -> float:
        """Return R2 of predictions of each record from all others, in the model's units.

        Source: Rasmussen and Williams 2006, equation 5.12.
        """
        inverse = np.linalg.inv(self.process.L_)
        precision = inverse.T @ inverse
        errors = self.process.alpha_ / np.diagonal(precision)
        total = float(((self.process.y_train_ - self.process.y_train_.mean()) ** 2).sum())
        return 1.0 - float((errors**2).sum()) / total if total else 1.0


def fitted(count: int) -> NDArray[np.intp]:
    """Return the records of `count` to which scales are fitted.

    All up to 60; later those of the last multiple of 5, and above 300 of 25, so that a fit serves
    several proposals; at most FITTED of them, evenly spaced.
    """
    step = 1 if count <= 60 else 5 if count <= 300 else 25
    last = count // step * step
    return np.unique(np.linspace(0, last - 1, min(last, FITTED)).round().astype(np.intp))


@functools.lru_cache(32)  # a fit serves several proposals; equal records have equal scales
def _scales(
    features: bytes, targets: bytes, alpha: bytes, sizes: tuple[int, ...], minor: tuple[bool, ...]
) -> tuple[float, ...]:
    """Return the scales with the largest posterior density found from the priors' medians."""
    noise = np.frombuffer(alpha)
    points = np.frombuffer(features).reshape(len(noise), -1)
    center = prior(minor)
    process = _process(sizes, center, noise, _maximize(np.log(center)))
    return tuple(process.fit(points, np.frombuffer(targets)).kernel_.scales.tolist())


def prior(minor: Sequence[bool]) -> Matrix:
    """Return the priors' medians for groups of which some are minor, in the kernel's order."""
    lengths = [MINOR_LENGTH if m else LENGTH for m in minor]
    weights = [MINOR_WEIGHT if m else WEIGHT for m in minor]
    return np.array([*lengths, *weights, VARIANCE, NOISE])


def _maximize(center: Matrix) -> Callable[..., tuple[Matrix, float]]:
    """Return an optimizer for scikit-learn that adds log-normal priors to the likelihood."""
    from scipy.optimize import minimize

    def optimizer(
        likelihood: Callable[[Matrix], tuple[float, Matrix]], start: Matrix, bounds: Matrix
    ) -> tuple[Matrix, float]:
        def loss(theta: Matrix) -> tuple[float, Matrix]:
            value, gradient = likelihood(theta)
            apart = (theta - center) / DEVIATION
            return value + 0.5 * float(apart @ apart), gradient + apart / DEVIATION

        found = minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}
        )
        return found.x, float(found.fun)

    return optimizer


def _process(sizes: Sequence[int], scales: Matrix, alpha: Matrix, optimizer: Any) -> Any:
    # Importing scikit-learn takes a second, and most commands need none of it.
    from sklearn.gaussian_process import GaussianProcessRegressor

    from search.samplers.structural.kernel import GroupKernel

    kernel = GroupKernel(ends=tuple(np.cumsum(sizes).tolist()), scales=np.array(scales))
    return GaussianProcessRegressor(kernel, alpha=np.array(alpha), optimizer=optimizer)
