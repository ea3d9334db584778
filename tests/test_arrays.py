"""What NumPy would misread: tensors, masks, complex numbers, times; missing labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from rezsl_sk import AttentionRegressor, ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.baselines import ALE, ESZSL, RidgePrototype
from rezsl_sk.datasets import make_zero_shot

QUICK = {"max_iter": 1, "random_state": 0}
MODELS = {
    "eszsl": ESZSL(),
    "ridge": RidgePrototype(),
    "ale": ALE(**QUICK),
    "classifier": ZeroShotClassifier(ReZSLRegressor((), **QUICK)),
    "attention": ZeroShotClassifier(AttentionRegressor(**QUICK)),
    "regressor": ReZSLRegressor((), **QUICK),
}


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        6, 3, samples_per_class=8, n_features=10, n_attributes=5, random_state=0
    )


def case(name, data):
    """An unfitted model, X and y."""
    X, train = data.X.astype(np.float32), data.trainval
    model = clone(MODELS[name])
    if name == "regressor":
        return model, X[train], data.attributes[data.labels[train]]
    model.class_attributes = data.class_names, data.attributes
    if name == "attention":
        X = np.stack([X, -X], axis=1)
    return model, X[train], data.y[train]


def methods(name):
    if name == "regressor":
        return ["predict"]
    return ["predict", "decision_function", "class_scores"]


@pytest.mark.parametrize("kind", ["grad", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_read_like_arrays(name, kind, data):
    model, X, y = case(name, data)
    tensor = torch.tensor(X, requires_grad=True)
    if kind == "bfloat16":
        tensor = tensor.bfloat16()
        X = tensor.detach().float().numpy()
    expected = clone(model).fit(X, y)
    model.fit(tensor, y)
    for method in methods(name):
        np.testing.assert_array_equal(
            getattr(model, method)(tensor), getattr(expected, method)(X)
        )


@pytest.mark.parametrize("kind", ["grad", "bfloat16"])
def test_attributes_as_tensors(kind, data):
    A = torch.tensor(data.attributes, requires_grad=True)
    if kind == "bfloat16":
        A = A.bfloat16()
    wide = A.detach().double().numpy()
    X, y, labels = data.X[data.trainval], data.y[data.trainval], data.labels
    clf = ESZSL((data.class_names, A)).fit(X, y)
    np.testing.assert_array_equal(clf.class_attributes_, wide)
    reg = ReZSLRegressor((), **QUICK).fit(X, A[torch.from_numpy(labels[data.trainval])])
    same = ReZSLRegressor((), **QUICK).fit(X, wide[labels[data.trainval]])
    np.testing.assert_array_equal(reg.predict(X, A), same.predict(X, wide))


def bad(X, kind):
    if kind == "masked":
        return np.ma.masked_greater(X, 1.0)
    if kind == "frame of times" and X.ndim == 2:
        frame = pd.DataFrame(X.astype(float))
        return frame.assign(when=pd.to_timedelta(np.arange(len(X)), unit="s"))
    return X.astype({"complex": np.complex64, "dates": "M8[s]"}.get(kind, "m8[s]"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("masked", r"X has \d+ masked values. Fill them in"),
        ("complex", "X has complex64. Give real and imaginary parts"),
        ("times", r"X holds times or dates \(timedelta64"),
        ("dates", r"X holds times or dates \(datetime64"),
        ("frame of times", r"X holds times or dates \(timedelta64"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_what_would_be_misread_is_refused(name, kind, message, data):
    model, X, y = case(name, data)
    with pytest.raises(ValueError, match=message):
        clone(model).fit(bad(X, kind), y)
    model.fit(X, y)
    for method in methods(name):
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(bad(X, kind))


@pytest.mark.parametrize("name", MODELS)
def test_a_mask_that_hides_nothing_is_none(name, data):
    model, X, y = case(name, data)
    masked = np.ma.array(X, mask=False)
    expected = clone(model).fit(X, y).predict(X)
    np.testing.assert_array_equal(model.fit(masked, y).predict(masked), expected)


@pytest.mark.parametrize("kind", ["masked", "complex", "times"])
def test_labels_and_attributes_that_would_be_misread(kind, data):
    X, labels = data.X[data.trainval], data.labels[data.trainval]
    table = np.arange(len(data.attributes)), data.attributes
    message = "masked|complex|times or dates"
    with pytest.raises(ValueError, match=f"y h.*({message})"):
        ESZSL(table).fit(X, bad(labels, kind))
    S = data.attributes[labels]
    with pytest.raises(ValueError, match=f"S h.*({message})"):
        ReZSLRegressor((), **QUICK).fit(X, bad(S * 2, kind))
    with pytest.raises(ValueError, match=f"S h.*({message})"):
        ReZSLRegressor((), **QUICK).partial_fit(X, bad(S * 2, kind))


@pytest.mark.parametrize("name", MODELS)
def test_without_labels(name, data):
    model, X, _ = case(name, data)
    for arguments in [(X,), (X, None)]:
        with pytest.raises(ValueError, match="requires y to be passed"):
            model.fit(*arguments)
