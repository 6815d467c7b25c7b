"""A linear classifier on features, trained by scikit-learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edged.errors import ConfigError, InputError, how_to_install

__all__ = ["Head", "train_head"]

_FOLDS: Final = 5
_ITERATIONS: Final = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """softmax(features · weights + bias).

    Attributes:
        classes: their labels, sorted.
        weights: float32 [features, classes].
        bias: float32 [classes].
        accuracy: the share of samples that a head saw right which was trained without them
            (stratified cross-validation); None where a class has one sample only.
        folds: how many such heads there were.
    """

    classes: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    accuracy: float | None
    folds: int

    def __call__(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The probabilities [N, classes] of features [N, F]."""
        logits = features @ self.weights + self.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def train_head(
    features: npt.NDArray[np.float32], labels: Sequence[str], *, strength: float = 1.0
) -> Head:
    """Logistic regression on standardised features, the scaling folded into the weights.

    Deterministic: the same features and labels give the same head.

    Args:
        features: [N, F].
        labels: of each; there have to be two classes at least.
        strength: the inverse of the regularisation (scikit-learn's C).

    Raises:
        ConfigError: scikit-learn is not installed.
        InputError: fewer than two classes, another number of labels, or a strength that is none.
    """
    counts = Counter(labels)
    if len(labels) != len(features):
        raise InputError(
            f"cannot train: there are {len(labels)} labels for {len(features)} images; wanted one"
            " each"
        )
    if len(counts) < 2:
        raise InputError(
            f"cannot train: every image has the label {next(iter(counts), None)!r}; wanted at"
            " least two classes, each in a folder of its name, or --labels"
        )
    if not strength > 0:
        raise InputError(f"cannot train with strength {strength}: wanted more than 0")
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError(
            f"cannot train: scikit-learn is not installed ({error}); "
            f"{how_to_install('scikit-learn')} does it"
        ) from error
    # In double: the solver stops where it should, on every machine.
    samples = features.astype(np.float64)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS, random_state=0)
    )
    folds = min(_FOLDS, *counts.values())
    accuracy = None
    if folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        accuracy = float(cross_val_score(model, samples, list(labels), cv=split).mean())
    model.fit(samples, list(labels))
    scaler, regression = model.steps[0][1], model.steps[1][1]
    weights, bias = regression.coef_, regression.intercept_
    if len(counts) == 2:  # one row: the log odds of the second class
        weights = np.concatenate([np.zeros_like(weights), weights])
        bias = np.concatenate([np.zeros_like(bias), bias])
    weights = weights / scaler.scale_
    bias = bias - weights @ scaler.mean_
    return Head(
        tuple(str(label) for label in regression.classes_),
        np.ascontiguousarray(weights.T, np.float32),
        bias.astype(np.float32),
        accuracy,
        folds,
    )
