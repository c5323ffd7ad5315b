"""What a test function may return, and the line that says what is wrong with the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgenode.errors import EdgenodeError
from edgenode.evaluation import Evaluation, Evaluations, Metric


def read(returned: Any) -> Evaluation:
    return Evaluations().read(returned, "Birds.evaluate")


@pytest.mark.parametrize("returned", [0.25, torch.tensor(0.25), torch.tensor([0.25]), np.float64(0.25)])
def test_a_number_alone_is_the_accuracy(returned: Any) -> None:
    assert read(returned) == Evaluation(0.25)


def test_the_first_of_named_metrics_is_the_accuracy_or_the_loss() -> None:
    by_auc = read({"auc": torch.tensor(0.5), "return": -187})
    assert by_auc == Evaluation(0.5, (Metric("auc", 0.5), Metric("return", -187.0)))
    by_loss = read({"loss": 2.5, "perplexity": 12.2})
    assert (by_loss.accuracy, by_loss.loss, by_auc.loss) == (None, 2.5, None)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (93.5, "returned 93.5, but an accuracy is a fraction from 0 to 1: return 0.935 for 93.5 %"),
        (250, 'returned 250, but an accuracy is a fraction from 0 to 1; a loss is {"loss": …}'),
        (float("nan"), "returned nan, but an accuracy is a fraction from 0 to 1"),
        ("0.5", "returned a result that is '0.5', but it must be a number"),
        (torch.ones(3), "returned a result that has shape (3,), but it must be one number"),
        ({}, "returned 0 metrics, but a test has 1 to 16"),
        ({f"m{i}": 0 for i in range(17)}, "returned 17 metrics, but a test has 1 to 16"),
        (
            {"perplexity": 12.5},
            "returned perplexity = 12.5 first, but the first metric is a fraction from 0 to 1 where",
        ),
        ({"loss": float("nan")}, "returned loss = nan, but a metric is a finite number"),
        ({"auc": 0.5, "mAP": float("inf")}, "returned mAP = inf, but a metric is a finite number"),
        ({"auc": 0.5, "f1": None}, "returned a metric f1 that is None, but it must be a number"),
        ({"auc": 0.5, "f1": 0.5, "AUC": 0.6}, "returned two metrics with one name, auc and AUC: rename one"),
        ({"a b": 0.5}, "returned a metric called 'a b', but a name has 1 to 63 ASCII letters, digits or ._-"),
    ],
)
def test_anything_else_is_refused_in_one_line(returned: Any, reason: str) -> None:
    with pytest.raises(EdgenodeError) as refused:
        read(returned)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("later", "named"), [({"f1": 0.5, "auc": 0.5}, "f1, auc"), ({"auc": 0.5}, "auc"), (0.5, "a number without a name")]
)
def test_other_names_than_before_are_refused(later: Any, named: str) -> None:
    evaluations = Evaluations()
    evaluations.read({"auc": 0.5, "f1": 0.5}, "score")
    with pytest.raises(EdgenodeError, match=f"score returned {named}, but before auc, f1: return the same metrics"):
        evaluations.read(later, "score")
