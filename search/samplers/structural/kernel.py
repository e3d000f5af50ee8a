"""Kernel of the model: linear and Matern 5/2 with one length scale and one weight a group.

Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, section 4.2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

Matrix = NDArray[np.float64]
BOUNDS = (1e-9, 1e9)
"""Bounds of all scales; the priors keep them far within."""
CONSTANT = 1.0
"""Prior variance of the model's mean, in units of the observed variance."""


class GroupKernel(Kernel):  # type: ignore[misc]
    """Sum of a constant, a linear kernel, Matern 5/2, and noise of observations.

    `ends` are the columns at which the G groups of features end. `scales` has G length scales, G
    weights of the linear part, the variance of the Matern part, and that of the noise.
    """

    def __init__(self, ends: tuple[int, ...], scales: Matrix) -> None:
        self.ends = ends
        self.scales = scales

    @property
    def hyperparameter_scales(self) -> Any:
        """The scales as scikit-learn describes them; it optimizes their logarithms."""
        return Hyperparameter("scales", "numeric", BOUNDS, len(self.scales))

    def is_stationary(self) -> bool:
        """Return False: the linear part depends on the place."""
        return False

    def diag(self, X: Matrix) -> Matrix:
        """Return the prior variance of each point, without noise of its observation."""
        _, weights, variance, _ = self._parts()
        return CONSTANT + variance + (X**2) @ self._spread(weights)

    def __call__(self, X: Matrix, Y: Matrix | None = None, eval_gradient: bool = False) -> Any:
        """Return the covariance of points, with noise on the diagonal if Y is None.

        With `eval_gradient` also its derivatives by the logarithms of the scales, points x points
        x scales.
        """
        lengths, weights, variance, noise = self._parts()
        if eval_gradient:
            return self._with_gradient(X, lengths, weights, variance, noise)
        other = X if Y is None else Y
        linear = (X * self._spread(weights)) @ other.T
        by_length = 1.0 / self._spread(lengths)
        left, right = X * by_length, other * by_length
        squares = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2.0 * left @ right.T
        covariance = correlation(np.maximum(squares, 0.0, out=squares))
        covariance *= variance
        covariance += linear
        covariance += CONSTANT
        if Y is None:
            covariance[np.diag_indices(len(X))] += noise
        return covariance

    def _with_gradient(
        self, X: Matrix, lengths: Matrix, weights: Matrix, variance: float, noise: float
    ) -> tuple[Matrix, Matrix]:
        squares, products = self._by_group(X)
        count, rows = len(lengths), len(X)
        gradient = np.empty((2 * count + 2, rows, rows))  # filled in place: copies take most time
        np.multiply(squares, (lengths**-2.0)[:, None, None], out=gradient[:count])
        value, slope = matern(gradient[:count].sum(axis=0))
        gradient[:count] *= -2.0 * variance * slope
        np.multiply(products, weights[:, None, None], out=gradient[count : 2 * count])
        np.multiply(value, variance, out=gradient[-2])
        gradient[-1] = noise * np.eye(rows)
        return CONSTANT + gradient[count:].sum(axis=0), np.moveaxis(gradient, 0, -1)

    def _by_group(self, X: Matrix) -> tuple[Matrix, Matrix]:
        """Return squared distances and products of points in each group, groups x points x points.

        They are kept while the same points are fitted.
        """
        known = vars(self).get("_cached")
        if known is not None and known[0] is X:
            return known[1], known[2]
        starts = (0, *self.ends[:-1])
        parts = [X[:, a:b] for a, b in zip(starts, self.ends, strict=True)]
        products = np.stack([part @ part.T for part in parts])
        own = np.diagonal(products, axis1=1, axis2=2)
        squares = np.maximum(own[:, :, None] + own[:, None, :] - 2.0 * products, 0.0)
        self._cached = (X, squares, products)
        return squares, products

    def _parts(self) -> tuple[Matrix, Matrix, float, float]:
        count = len(self.ends)
        scales = np.asarray(self.scales, dtype=float)
        return scales[:count], scales[count:-2], float(scales[-2]), float(scales[-1])

    def _spread(self, by_group: Matrix) -> Matrix:
        """Return one value for each feature from one for each group."""
        return np.repeat(by_group, np.diff((0, *self.ends)))


def correlation(squares: Matrix) -> Matrix:
    """Return the Matern 5/2 correlation at squared distances, with few intermediate arrays."""
    root = np.sqrt(5.0 * squares)
    decay = np.exp(-root)
    root += 1.0
    squares *= 5.0 / 3.0
    root += squares
    root *= decay
    return root


def matern(squares: Matrix) -> tuple[Matrix, Matrix]:
    """Return the Matern 5/2 correlation at squared distances, and its derivative by them."""
    root = np.sqrt(5.0 * squares)
    decay = np.exp(-root)
    return (1.0 + root + 5.0 / 3.0 * squares) * decay, -5.0 / 6.0 * (1.0 + root) * decay
