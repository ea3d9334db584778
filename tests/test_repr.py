"""An estimator with a large class table shows its size, not its numbers."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier

SHOWN = "class_attributes=<717 classes, 312 attributes>"


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).random((717, 312))


@pytest.fixture(scope="module")
def names():
    return [f"<b>class {i}</b>" for i in range(717)]


@pytest.fixture(params=["frame", "pair", "lists"])
def table(request, matrix, names):
    if request.param == "frame":
        return pd.DataFrame(matrix, index=names)
    return (names, matrix if request.param == "pair" else matrix.tolist())


def test_a_table_is_shown_by_its_size_and_fast(table):
    model = ZeroShotClassifier(class_attributes=table, seen_penalty=0.25)
    start = time.perf_counter()
    text, html = repr(model), model._repr_html_()
    assert time.perf_counter() - start < 0.5
    assert text == f"ZeroShotClassifier({SHOWN},\n                   seen_penalty=0.25)"
    assert "&lt;717 classes, 312 attributes&gt;" in html
    assert len(html) < 60_000
    # Only what is shown is replaced.
    assert model.class_attributes is table
    assert model.get_params()["class_attributes"] is table
    assert clone(model).get_params().keys() == model.get_params().keys()


def test_a_fitted_classifier_shows_itself(table, names):
    rng = np.random.default_rng(0)
    model = ZeroShotClassifier(
        ReZSLRegressor(max_iter=1, random_state=0, device="cpu"), table
    ).fit(rng.random((60, 5)), np.array(names)[np.arange(60) % 6])
    html = model._repr_html_()
    assert "&lt;717 classes, 312 attributes&gt;" in html
    assert "candidates_" in html and "seen_penalty_" in html
    assert "<b>class" not in html
    assert len(html) < 100_000


def test_inside_a_pipeline_too(matrix, names):
    model = make_pipeline(
        StandardScaler(), ZeroShotClassifier(class_attributes=(names, matrix))
    )
    assert SHOWN in repr(model)
    assert "0." not in repr(model)
    assert "&lt;717 classes, 312 attributes&gt;" in model._repr_html_()


@pytest.mark.parametrize("table", [None, "nonsense", (1, 2), ("ab", [3]), ([], [])])
def test_what_is_no_table_is_shown_as_it_is(table):
    text = repr(ZeroShotClassifier(class_attributes=table, seen_penalty=0.5))
    assert "seen_penalty=0.5" in text
    assert (repr(table) in text) or table is None
