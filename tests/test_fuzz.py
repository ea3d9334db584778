"""Random use of all that is public ends with a right answer or a sentence of ours.

The number of a case is its seed. To repeat one: ``pytest -m "" tests/test_fuzz.py -k
case7-`` for the case 7, or ``python tests/test_fuzz.py 7 8``, which also counts how
the cases from the first number up to the second ended. The first few run by default,
5000 with ``pytest -m slow tests/test_fuzz.py``.
"""

import pickle
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge

from rezsl_sk import (
    AttentionRegressor,
    ReZSLRegressor,
    ReZSLSearchCV,
    ZeroShotClassifier,
    ZeroShotStackingClassifier,
)
from rezsl_sk.baselines import (
    ALE,
    DAP,
    DEM,
    ESZSL,
    SAE,
    ClassNormalizedEmbedding,
    RidgePrototype,
)
from rezsl_sk.decoding import (
    nearest_prototype,
    prototype_scores,
    stack_calibrated,
    top_k,
)
from rezsl_sk.losses import (
    BMCLoss,
    MAELoss,
    MSELoss,
    ReMSELoss,
    RMSELoss,
    remse_loss,
)
from rezsl_sk.metrics import (
    gzsl_report,
    harmonic_mean,
    imbalance_report,
    mean_per_class_accuracy,
    seen_unseen_curve,
)
from rezsl_sk.model_selection import (
    ClassKFold,
    ClassShuffleSplit,
    GZSLKFold,
    gzsl_scorer,
    zero_shot_scorer,
)
from rezsl_sk.streaming import predict_to_hdf5
from rezsl_sk.tables import ClassTable

# Of scikit-learn these check what a user gives; its sentences serve as ours.
OTHER = ("class_attributes", "candidates", "seen_penalty", "random_state")
CHECKS_OF_SKLEARN = ("sklearn/utils/", "sklearn/base.py", "model_selection/_split.py")


class Case:
    """Draws by a seed, and remembers what may, or must, be refused for what is odd."""

    def __init__(self, number):
        self.rng = np.random.default_rng(number)
        self.may, self.must = [], []

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def odd(self, p, reason, must=True):
        """Whether to draw something odd, which is to be refused."""
        if not self.chance(p):
            return False
        (self.must if must else self.may).append(reason)
        return True


# ---- what is drawn ---------------------------------------------------------------


class Problem:
    """Rows of classes that attributes (C, a) describe, the first K of them seen."""

    def __init__(self, case, regions=False):
        rng = case.rng
        self.case = case
        self.n_seen = K = int(rng.integers(2, 9))
        self.n_classes = C = K + int(rng.integers(0, 5))
        n_attributes, d = int(rng.integers(1, 9)), int(rng.integers(1, 13))
        n = int(rng.integers(max(10, K), 61))
        P = case.pick(rng.normal, rng.uniform)(size=(C, n_attributes))
        if case.chance(0.2):
            P = (P > np.median(P)).astype(float)
        if case.chance(0.2):
            P[:, rng.integers(n_attributes)] = case.pick(0.0, 0.1, 1 / 3, 1e5 / 3)
        if case.chance(0.1):
            P[rng.integers(C)] = P[rng.integers(C)]  # equal classes
        if case.chance(0.05):
            P[rng.integers(C)] = 0
        self.group = np.concatenate([np.arange(K), rng.integers(0, K, n - K)])
        rng.shuffle(self.group)
        X = P[self.group] @ rng.normal(size=(n_attributes, d))
        X += 0.3 * rng.normal(size=(n, d))
        if regions:
            X = X[:, None] + 0.3 * rng.normal(size=(n, int(rng.integers(1, 4)), d))
        if case.chance(0.15):
            X[..., rng.integers(d)] = case.pick(0.0, 0.1, 1e4 / 3)
        if case.chance(0.1):
            X[rng.integers(n)] = X[rng.integers(n)]
        if case.chance(0.1):
            X[rng.integers(n)] = 0
        # Powers of two round nothing, and nothing depends on the units.
        dtype = case.pick(np.float64, np.float64, np.float32)
        self.X_power = case.pick(*[0] * 9, -8, 8, -60, 60, -90, 90)
        if dtype == np.float64 and case.chance(0.06):
            self.X_power = case.pick(-900, -500, 500, 900)
        self.S_power = case.pick(*[0] * 10, -10, 10, 30, -30, 90, -90, 500, -500)
        for what, power in [("X", self.X_power), ("S", self.S_power)]:
            if abs(power) > 20:
                case.may.append(f"{what} in units of 2**{power}")
        offset = case.pick(*[0.0] * 8, 0.1, -1000.3)
        self.plain_X, self.plain_P = X.astype(dtype), P + offset
        self.X = np.ldexp(self.plain_X, self.X_power)
        self.P = np.ldexp(self.plain_P, self.S_power)
        self.has_table = True
        self.describe(self.plain_P)
        self.name()

    def describe(self, P):
        """What a class table may be refused for."""
        case, K = self.case, self.n_seen
        self.varying = P[:K].max(axis=0) > P[:K].min(axis=0)
        if not self.varying.any():
            case.must.append("no attribute varies")
        V = P[:, self.varying]
        for origin in (0, V[:K].mean(axis=0)):
            away = np.abs(V - origin).max(axis=1, initial=0)
            if (away <= 1e-6 * np.abs(V).max(initial=0)).any():
                case.may.append("a class at the origin")

    def name(self):
        """Names of the classes, in no order, and labels of the rows."""
        case, C = self.case, self.n_classes
        kind = case.pick("text", "text", "digits", "numbers", "count", "negative")
        number = case.rng.choice(1000, C, replace=False)
        if kind == "text":
            names = np.array([f"{case.pick(*'azé Z')}{i}" for i in number])
        elif kind == "digits":
            names = number.astype(str)
        elif kind == "count":
            names = np.arange(C)
        else:
            names = number - (500 if kind == "negative" else 0)
        self.counts = kind == "count"
        self.names = names
        self.labels = names[self.group]
        self.attribute_names = [f"a{i}" for i in case.rng.permutation(self.P.shape[1])]

    # ---- in the forms that users have ----

    def rows(self, X=None):
        """X, or other rows, as an array or something like it."""
        case = self.case
        X = (self.X if X is None else X).copy()
        if case.odd(0.03, "NaN in X"):
            X[(0,) * X.ndim] = case.pick(np.nan, np.inf, -np.inf)
        form = case.pick(
            *["array"] * 6, "fortran", "strided", "frozen", "list", "frame"
        )
        if form == "fortran":
            return np.asfortranarray(X)
        if form == "strided":
            return np.repeat(X, 2, axis=0)[::2]
        if form == "frozen":
            X.setflags(write=False)
        elif form == "list" and X.dtype == np.float64:
            return X.tolist()
        elif form == "frame" and X.ndim == 2:
            return pd.DataFrame(X)
        elif case.odd(0.02, "X of text"):
            return X.astype(str).astype(object) + "?"
        elif case.chance(0.03):
            return torch.from_numpy(X)
        elif case.chance(0.02) and X.ndim == 2:
            return X.astype(object)
        elif case.odd(0.02, "X of other axes"):
            return X.ravel() if case.chance(0.5) else np.stack([X, X], axis=-1)
        return X

    def targets(self):
        """y as a list, an array, a Series, a column."""
        case, y = self.case, self.labels
        if case.odd(0.02, "a label is missing"):
            y = y.astype(object)
            y[case.rng.integers(len(y))] = case.pick(None, np.nan, pd.NA)
            return y
        if case.odd(0.02, "one class"):
            return y[:1].repeat(len(y))
        if case.odd(0.02, "labels and rows differ in number"):
            return y[1:]
        if self.has_table and case.odd(0.02, "a class is not described"):
            y = y.astype(object)
            y[case.rng.integers(len(y))] = "nobody" if isinstance(y[0], str) else 7777
            return y
        if case.odd(0.01, "mixed labels"):
            y = y.astype(object)
            y[1] = 3 if isinstance(y[0], str) else "three"
            return y
        form = case.pick(*["array"] * 4, "list", "series", "object", "categorical")
        if form == "list":
            return y.tolist()
        if form == "series":
            return pd.Series(y, index=np.arange(len(y))[::-1])
        if form == "object":
            return y.astype(object)
        if form == "categorical":
            return pd.Series(y, dtype="category")
        return y

    def table(self, order=None):
        """A class table in one of its forms; rows in any order."""
        case, names, P = self.case, self.names, self.P
        if not self.counts and order is None:
            order = case.rng.permutation(self.n_classes)
        if order is not None:
            names, P = names[order], P[order]
        P = P.copy()
        if case.odd(0.02, "NaN in the table"):
            P[0, 0] = case.pick(np.nan, np.inf)
        if case.odd(0.02, "a class twice"):
            names, P = np.append(names, names[:1]), np.vstack([P, P[:1] + 1])
        kind = case.pick("frame", "frame", "pair", "dict", "table", "numbered", "csv")
        if case.odd(0.02, "columns without names of their own"):
            columns = [case.pick("", "a1"), "a1", *range(P.shape[1])][: P.shape[1] + 1]
            return pd.DataFrame(np.column_stack([P, P[:, 0]]), names, columns)
        if P.shape[0] != P.shape[1] and case.odd(0.02, "transposed"):
            return pd.DataFrame(P, names, self.attribute_names).T
        if kind == "dict" and not case.must:
            return {
                n: case.pick(row, list(row)) for n, row in zip(names, P, strict=True)
            }
        if kind == "table" and not case.must:
            return ClassTable(names, P, self.attribute_names)
        if kind == "numbered":
            return pd.DataFrame(P, index=names)
        if kind == "csv":
            return pd.DataFrame(P, names, [str(i) for i in range(P.shape[1])])
        if kind == "pair":
            return case.pick(tuple, list)((case.pick(names, names.tolist()), P))
        if self.counts and not case.must and case.chance(0.5):
            return P
        return pd.DataFrame(P, names, self.attribute_names)

    def candidates(self):
        """Parameter `candidates`, and the classes it means, sorted."""
        case, names, K = self.case, self.names, self.n_seen
        kind = case.pick("all", "all", "unseen", "seen", "list", "two", "one")
        if kind == "unseen" and K == self.n_classes:
            case.must.append("no class is unseen")
        if kind in ("all", "seen", "unseen"):
            of = {"all": slice(None), "seen": slice(K), "unseen": slice(K, None)}
            return kind, np.sort(names[of[kind]])
        n = {"list": int(case.rng.integers(1, len(names) + 1)), "two": 2, "one": 1}[
            kind
        ]
        chosen = case.rng.permutation(names)[:n]
        if case.odd(0.05, "an unknown candidate"):
            return [*chosen.tolist()[1:], "?" if chosen.dtype.kind == "U" else -9], None
        if case.odd(0.03, "a candidate twice"):
            return [*chosen, chosen[0]], None
        if case.odd(0.03, "no candidates"):
            return [], None
        return case.pick(chosen, chosen.tolist()), np.sort(chosen)

    def penalty(self):
        case = self.case
        if case.odd(0.03, "a penalty that is none"):
            return case.pick(np.nan, np.inf, "0.1", None)
        if self.n_seen >= 4 and case.chance(0.05):
            case.may.append("a penalty of folds")  # whose classes may not differ
            return "auto"
        return case.pick(0.0, 0.0, 0.0, 0.25, -0.25, 1, 1e7, -1e7, np.float32(0.5))

    def attributes(self):
        """S, a row for each sample."""
        case, S = self.case, self.P[self.group]
        if case.odd(0.03, "NaN in S"):
            S[0, 0] = np.nan
        if case.odd(0.02, "S and X differ in number"):
            S = S[1:]
        if case.odd(0.02, "text in S"):
            return S.astype(str).astype(object) + "?"
        form = case.pick(*["array"] * 4, "frame", "frame", "list", "float32")
        if form == "frame":
            return pd.DataFrame(S, columns=self.attribute_names)
        if form == "list":
            return S.tolist()
        if form == "float32" and abs(self.S_power) < 100:
            return S.astype(np.float32)
        if S.shape[1] == 1 and case.chance(0.5):
            return S[:, 0]
        return S


def scaling(case, problem, parameters):
    """Whether answers depend on the units, and sums or steps may grow with them."""
    how = [parameters.get(f"{what}_scaling", 0) for what in ("feature", "attribute")]
    problem.free_of_units = None not in how and how[1] != "center"
    if None in how:
        case.may.append("no scaling")


def regressor(case, problem, make=ReZSLRegressor):
    """One with parameters of any kind."""
    pick = case.pick
    chosen = {"max_iter": pick(1, 2, 3), "random_state": int(case.rng.integers(99))}
    if make is ReZSLRegressor:
        sizes = pick((), (), (4,), (3, 5), [4])
        chosen |= {"hidden_layer_sizes": sizes, "dropout": pick(0.0, 0.5)}
        chosen["matmul_precision"] = pick(*["full"] * 5, "tf32", "bfloat16")
    some = {
        "loss": ["mse", "mae", "rmse", "bmc", "remse"],
        "class_power": [0, 0.5, 2],
        "attribute_power": [0, 0.5, 2],
        "statistics": ["running"],
        "normalize_weights": [False],
        "regression_weight": [0.0, 2],
        "classification_weight": [0.0, 0.1],
        "scale": [1, 30.0],
        "attribute_scaling": ["center", "l2", None],
        "feature_scaling": ["standard", None],
        "feature_weight": [0.0, 0, 1.0, 0.3],
        "solver": ["sgd"],
        "learning_rate": ["constant"],
        "learning_rate_init": [1e-4, 1e-2],
        "weight_decay": [0.0, 0.1],
        "batch_size": [1, 7, 1000],
        "sampler": ["episodes"],
        "ways": [1, 3, 100],
        "shots": [1, 2],
        "early_stopping": [True],
    }
    for name, values in some.items():
        if case.chance(0.15):
            chosen[name] = pick(*values)
    if case.odd(0.03, "a parameter out of range"):
        name, values = pick(
            ("class_power", [-1, np.nan, "1"]),
            ("feature_weight", [2, -0.1, np.nan]),
            ("learning_rate_init", [0, np.inf]),
            ("batch_size", [0, 2.5]),
            ("max_iter", [0, "many"]),
            ("loss", ["MSE", None]),
            ("scale", [0, -1]),
            ("device", ["nowhere", "cuda:77", 3]),
        )
        chosen[name] = pick(*values)
    if not chosen.get("regression_weight", 1):
        case.may.append("nothing to train for")
    if chosen.get("solver") == "sgd":
        case.may.append("steps may diverge")
    if chosen.get("early_stopping"):
        case.may.append("early stopping")
    scaling(case, problem, chosen)
    return make(**chosen)


def classifier(case, problem, make):
    """An estimator with labels, its parameters, table and candidates drawn."""
    parameters, seed = {}, int(case.rng.integers(99))
    if make in (ReZSLRegressor, AttentionRegressor):
        inner = regressor(case, problem, make)
        make, parameters["regressor"] = ZeroShotClassifier, inner
    elif make is ZeroShotStackingClassifier:
        problem.free_of_units = True
        members = [ESZSL(), SAE(), RidgePrototype(), DAP(max_iter=3)]
        members.append(ReZSLRegressor((), max_iter=1, random_state=seed))
        if case.chance(0.3) and problem.X_power == problem.S_power == 0:
            members.append(case.pick(Ridge(), LogisticRegression(max_iter=1000)))
            problem.free_of_units = False
            case.may.append("members of scikit-learn")
        chosen = case.rng.choice(len(members), case.pick(1, 2, 3), replace=False)
        parameters["estimators"] = [(f"m{i}", members[i]) for i in chosen]
        parameters |= {"cv": case.pick(2, 3), "random_state": seed}
        case.may.append("classes of folds")  # which may not vary
    else:
        some = {
            "feature_scaling": ["standard", "l2", None],
            "attribute_scaling": ["standard", "center", "l2", None],
            "direction": ["to_features"],
            "feature_penalty": [1e-3, 1, 100.0],
            "attribute_penalty": [1e-3, 10],
            "encoder_weight": [0.01, 100],
            "margin": [0.1, 2],
            "batch_size": [1, 5, 1000],
            "weight_decay": [0, 0.1],
            "learning_rate_init": [1e-4, 1e-2],
            "scale": [1, 50.0],
            "max_iter": [1, 2, 3],
        }
        names = make().get_params()
        for name, values in some.items():
            if name in names and case.chance(0.3):
                parameters[name] = case.pick(*values)
        if "max_iter" in names:
            parameters.setdefault("max_iter", 2)
        if "hidden_layer_sizes" in names:
            parameters["hidden_layer_sizes"] = case.pick((4,), (4, 3), [5])
        if "random_state" in names:
            parameters["random_state"] = seed
        if case.odd(0.03, "a parameter out of range"):
            name = case.pick(*sorted(set(names) - set(OTHER)))
            parameters[name] = case.pick(-1.5, "?", np.nan) if name != "device" else "?"
        scaling(case, problem, parameters)
    model = make(**parameters)
    if case.chance(0.06):
        problem.has_table, problem.chosen = False, np.unique(problem.labels)
        case.must = [why for why in case.must if why != "no attribute varies"]
        return model
    model.class_attributes = problem.table()
    candidates, problem.chosen = problem.candidates()
    penalty = problem.penalty()
    model.candidates, model.seen_penalty = candidates, penalty
    return model


# ---- right answers ---------------------------------------------------------------


def close(one, other, tolerance=1e-5):
    size = max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))
    assert np.abs(one - other).max(initial=0) <= tolerance * size + 1e-12


def same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def unchanged(values, before):
    assert pickle.dumps(values) == before, "what was given has been changed"


def array_of(X, dtype=np.float64):
    X = np.asarray(X)
    return X if X.dtype == np.float32 else X.astype(dtype)


def named(model):
    """Whether the model was told the attributes by name."""
    table = model.class_attributes
    frame = isinstance(table, pd.DataFrame) and "a0" in table.columns
    return frame or isinstance(table, ClassTable)


def answers(model, X):
    found = [model.predict(X), model.decision_function(X), model.class_scores(X)]
    if hasattr(model, "predict_proba"):
        found += [model.predict_proba(X), model.predict_log_proba(X)]
    return found


def check_classifier(case, make):
    problem = Problem(case, regions=make is AttentionRegressor)
    model = classifier(case, problem, make)
    X, y = problem.rows(), problem.targets()
    given = X, y, model.get_params(deep=False)
    before = pickle.dumps(given)
    assert model.fit(X, y) is model
    new = problem.rows(problem.X[: case.rng.integers(1, len(problem.X) + 1)])
    found = answers(model, new)
    unchanged(given, before)
    best, decision, scores, *logits = found
    for numbers in found[1:]:
        assert np.isfinite(numbers).all()

    # The columns are sorted, and the best one is named.
    classes = problem.chosen
    assert model.classes_.tolist() == classes.tolist()
    assert model.seen_classes_.tolist() == np.unique(problem.labels).tolist()
    n, k = len(np.asarray(new)), len(classes)
    assert decision.shape == ((n,) if k == 2 else (n, k)) and scores.shape == (n, k)
    seen = np.isin(classes, problem.labels)
    of_table = {name: i for i, name in enumerate(model.class_names_.tolist())}
    for i in range(n):
        row = [-decision[i] / 2, decision[i] / 2] if k == 2 else decision[i]
        top = np.flatnonzero(row == np.max(row))
        top = min(top, key=lambda j: (seen[j], of_table[classes[j]]))
        assert best[i] == classes[top]
    if model.seen_penalty_ == 0 and k != 2:
        np.testing.assert_array_equal(decision, scores)
    for proba in logits[:1]:
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
        assert (proba >= 0).all()
        np.testing.assert_allclose(np.exp(logits[1]), proba, rtol=1e-3, atol=1e-6)
        one = np.searchsorted(classes, best)
        assert (proba[np.arange(n), one] >= proba.max(axis=1) * (1 - 1e-4)).all()
    if not problem.has_table or k > 2:
        labels = problem.labels[:n]
        assert model.score(new, labels) == np.mean(best == labels)

    # Nothing but the data and the seed decides.
    same(answers(pickle.loads(pickle.dumps(model)), new), found)
    same(answers(clone(model).fit(X, y), new), found)
    one_row = case.rng.integers(n)
    part = array_of(new)[one_row : one_row + 1]
    alone = scores.copy()
    alone[one_row] = model.class_scores(part)
    close(alone, scores, 1e-4)
    if not problem.has_table:
        return

    # Neither the order of the rows of the table does, nor that of named columns.
    frame = pd.DataFrame(problem.P, problem.names, problem.attribute_names)
    order = case.rng.permutation(problem.n_classes)
    other = clone(model).set_params(class_attributes=frame.iloc[order])
    close(other.fit(X, y).class_scores(new), scores, 1e-4)
    if named(model):
        rename = {"U": str, "i": int}[classes.dtype.kind]
        fresh = frame.iloc[: case.rng.integers(1, 3)] * 0.75
        fresh.index = [rename(5000 + i) for i in range(len(fresh))]
        turned = fresh.iloc[:, case.rng.permutation(fresh.shape[1])]
        longer = model.with_classes(fresh)
        same(answers(longer, new), answers(model.with_classes(turned), new))
        same([model.predict(new)], found[:1])
        known = longer.class_scores(new, classes)
        close(known, scores, 1e-4)

    # Nor do the units.
    if problem.free_of_units and problem.X_power or problem.S_power:
        if not problem.free_of_units or array_of(X).dtype != np.float64:
            return
        plain = clone(model).set_params(
            class_attributes=(problem.names, problem.plain_P)
        )
        back = [np.ldexp(array_of(rows), -problem.X_power) for rows in (X, new)]
        close(plain.fit(back[0], y).class_scores(back[1]), scores, 1e-4)


def check_regressor(case, make):
    problem = Problem(case, regions=make is AttentionRegressor)
    case.may += case.must  # attributes that do not vary are predicted as they are
    case.must.clear()
    model = regressor(case, problem, make)
    X, S = problem.rows(), problem.attributes()
    given = X, S, model.get_params(deep=False)
    before = pickle.dumps(given)
    assert model.fit(X, S) is model
    new = problem.rows(problem.X[: case.rng.integers(1, len(problem.X) + 1)])
    predicted = model.predict(new)
    unchanged(given, before)
    n = len(np.asarray(new))
    assert predicted.shape == (n, *np.shape(S)[1:])
    assert np.isfinite(predicted).all()
    constant = model.constant_attributes_
    trained = len(constant) < problem.P.shape[1]
    assert np.isfinite(model.loss_curve_).all() and len(model.loss_curve_) == (
        model.n_iter_ if trained else 0
    )
    assert np.isnan(model.error_matrix_[:, constant]).all()
    if not model.early_stopping:
        errors = np.delete(model.error_matrix_, constant, axis=1)
        assert np.isfinite(errors).all()
    same([pickle.loads(pickle.dumps(model)).predict(new)], [predicted])
    again = clone(model).fit(X, S)
    same([again.predict(new)], [predicted])
    assert np.isfinite(model.score(X, S))

    # Attributes are matched by name.
    frame = isinstance(S, pd.DataFrame)
    turn = case.rng.permutation(problem.P.shape[1])
    if frame:
        assert model.score(X, S.iloc[:, turn]) == model.score(X, S)
    if not problem.varying.any():
        case.must.append("no class can be told from another")
    if frame or case.chance(0.5):
        table = problem.table()
        if isinstance(table, pd.DataFrame) and not frame and case.must == []:
            table = pd.DataFrame(table.to_numpy(), table.index)
        before = pickle.dumps(table)
        names = model.predict(new, prototypes=table)
        unchanged(table, before)
        assert set(names.tolist()) <= set(problem.names.tolist()) and len(names) == n
    prototypes = pd.DataFrame(problem.P, problem.names, problem.attribute_names)
    if frame:
        best = model.predict(new, prototypes=prototypes)
        turned = prototypes.iloc[:, turn]
        same([model.predict(new, prototypes=turned)], [best])
    else:
        best = model.predict(new, prototypes=problem.P, classes=problem.names)
    same([again.predict(new, prototypes=problem.P, classes=problem.names)], [best])
    assert 0 <= zero_shot_scorer(model, X, S) <= 1
    if problem.free_of_units and (problem.X_power or problem.S_power):
        if array_of(X).dtype != np.float64 or np.asarray(S).dtype != np.float64:
            return
        plain_S = np.ldexp(array_of(S), -problem.S_power)
        back = [np.ldexp(array_of(rows), -problem.X_power) for rows in (X, new)]
        plain = clone(model).fit(back[0], plain_S).predict(back[1])
        close(np.ldexp(plain, problem.S_power), predicted, 1e-4)


def check_partial_fit(case):
    problem = Problem(case)
    case.may += [*case.must, "the first part may not vary"]
    case.must.clear()
    model = regressor(case, problem)
    X, S = problem.rows(), problem.attributes()
    while "S and X differ in number" in case.must:  # parts have equal numbers
        case.must.remove("S and X differ in number")
    table = problem.table() if case.chance(0.5) else None
    if isinstance(table, pd.DataFrame) and not isinstance(S, pd.DataFrame):
        table = None if case.must == [] else table
    parts = np.array_split(np.arange(len(S)), int(case.rng.integers(1, 4)))
    given = X, S, table
    before = pickle.dumps(given)

    def run():
        one = clone(model)
        for i, rows in enumerate(parts):
            first, last = rows[0], rows[-1] + 1
            more = {"prototypes": table} if i == 0 and table is not None else {}
            one.partial_fit(X[first:last], S[first:last], **more)
        return one

    model_1, model_2 = run(), run()
    unchanged(given, before)
    X = X[: len(S)]
    predicted = model_1.predict(X)
    assert predicted.shape == np.shape(S) and np.isfinite(predicted).all()
    same([model_2.predict(X)], [predicted])
    same([pickle.loads(pickle.dumps(model_1)).predict(X)], [predicted])
    assert np.isfinite(model_1.score(X, S))


def check_search(case):
    problem = Problem(case)
    inner = ReZSLRegressor(
        case.pick((), (4,)), max_iter=case.pick(1, 2), random_state=case.pick(0, 1)
    )
    grid = {
        "attribute_power": [0.0, 1.0],
        case.pick("learning_rate_init", "feature_weight"): [1e-3, 0.5],
    }
    X, S = problem.rows(), problem.attributes()
    case.may += case.must
    case.may.append("folds of too few classes, or of classes that do not vary")
    case.must.clear()
    model, target = inner, S
    if case.chance(0.5):
        model = ZeroShotClassifier(inner, problem.table(), seen_penalty=0.5)
        grid = {f"regressor__{name}": values for name, values in grid.items()}
        target = problem.targets()
    given = X, target
    before = pickle.dumps(given)
    search = ReZSLSearchCV(model, grid, cv=case.pick(2, 3), error_score="raise")
    search.fit(X, target)
    unchanged(given, before)
    score = search.cv_results_["mean_test_score"]
    assert len(score) == 4 and ((score >= 0) & (score <= 1)).all()
    best = clone(model).set_params(**search.best_params_).fit(X, target)
    predicted = search.predict(X)
    if is_classifier(model):
        assert np.mean(predicted == best.predict(X)) > 0.9
    else:
        close(predicted, best.predict(X), 1e-2)


def check_splitter(case):
    problem = Problem(case)
    case.must.clear()
    y = problem.targets() if case.chance(0.6) else problem.attributes()
    for reason in ("labels and rows differ in number", "S and X differ in number"):
        if reason in case.must:
            case.must.remove(reason)
    if "a class is not described" in case.must:
        case.must.clear()
    if "one class" in case.must:
        case.must[:] = ["one class"]
    n = case.pick(2, 2, 3, 5, 1, 0, 2.5, "2")
    make = case.pick(ClassKFold, ClassShuffleSplit, GZSLKFold)
    case.may.append("folds and classes")
    share = {ClassShuffleSplit: "test_size", GZSLKFold: "seen_test_size"}.get(make)
    more = {share: case.pick(0.2, 0.5, 0.9, 1, 0, -1, "x")} if share else {}
    splitter = make(n, random_state=case.pick(0, 1, None), **more)
    before = pickle.dumps(y)
    splits = list(splitter.split(np.zeros((len(y), 1)), y))
    unchanged(y, before)
    assert len(splits) == n == splitter.get_n_splits()
    of_row = np.unique(np.asarray(problem.group), return_inverse=True)[1]
    distinct = len(of_row) == len(y) and len(np.unique(problem.P, axis=0)) == len(
        problem.P
    )
    for train, test in splits:
        assert len(train) and len(test) and not set(train) & set(test)
        if distinct and make is not GZSLKFold:
            assert not set(of_row[train]) & set(of_row[test])
        if distinct and make is GZSLKFold:
            held = set(of_row[test]) - set(of_row[train])
            assert held and set(np.flatnonzero(np.isin(of_row, list(held)))) <= set(
                test
            )
    if make is not ClassShuffleSplit:
        assert make is GZSLKFold or sorted(
            np.concatenate([test for _, test in splits])
        ) == list(range(len(y)))


def check_scorer(case):
    """gzsl_scorer and zero_shot_scorer against loops over the classes."""
    problem = Problem(case)
    K = problem.n_seen
    seed = int(case.rng.integers(99))
    rows = case.rng.integers(0, problem.n_classes, 30)
    X = problem.P[rows] @ case.rng.normal(size=(problem.P.shape[1], 4))
    y, seen = problem.names[rows], rows < K
    case.may.append("a fold without seen or unseen rows, or a class at the origin")
    penalty = case.pick(0.0, 0.1)
    model = case.pick(
        ESZSL(seen_penalty=penalty),
        RidgePrototype(seen_penalty=penalty),
        ZeroShotClassifier(
            ReZSLRegressor((), max_iter=1, random_state=seed), seen_penalty=penalty
        ),
    ).set_params(class_attributes=problem.table())
    model.fit(X[seen], y[seen])
    names = np.unique(y)
    best = names[model.class_scores(X, names).argmax(axis=1)]
    expected = np.mean([np.mean(best[y == name] == name) for name in names])
    assert abs(zero_shot_scorer(model, X, y) - expected) < 1e-9
    H = gzsl_scorer(model, X, y)
    model.candidates = np.union1d(names, y[seen]).tolist()
    best = model.fit(X[seen], y[seen]).predict(X)
    hit = {name: np.mean(best[y == name] == name) for name in names}
    S = np.mean([hit[name] for name in names if name in y[seen]])
    U = np.mean([hit[name] for name in names if name not in y[seen]])
    assert abs(H - (2 * S * U / (S + U) if S + U else 0)) < 1e-9


# ---- arrays in, numbers out ------------------------------------------------------


def labels_of(case, n, k):
    """Labels (n,) of k kinds in some form, and the same as a list."""
    y = case.rng.integers(0, k, n)
    form = case.pick("numbers", "text", "list", "float", "series", "object", "bad")
    if form == "bad":
        if not case.odd(0.3, "labels that are none"):
            return y, y.tolist()
        wrong = y.astype(object)
        wrong[:1] = case.pick(None, np.nan, 0.5)
        return case.pick(
            wrong, y + 0.5, y[:, None, None], np.ma.array(y, mask=y >= 0)
        ), []
    if form in ("text", "list"):
        text = np.array([f"c{i}" for i in y])
        return (text if form == "text" else text.tolist()), text.tolist()
    if form == "float":
        return y.astype(float), y.tolist()
    if form == "series":
        return pd.Series(y), y.tolist()
    return (y.astype(object) if form == "object" else y), y.tolist()


def check_accuracy(case):
    n = int(case.rng.integers(0, 20))
    true, true_list = labels_of(case, n, 3)
    predicted, list_ = labels_of(case, n + case.odd(0.05, "lengths differ"), 4)
    if n == 0:
        case.must.append("no samples")
    elif (
        true_list
        and list_
        and isinstance(true_list[0], str) != isinstance(list_[0], str)
    ):
        case.must.append("names and numbers")
    given = true, predicted
    before = pickle.dumps(given)
    if case.must:
        true_list = list_ = []
    found = mean_per_class_accuracy(true, predicted)
    unchanged(given, before)
    hits = {}
    for one, other in zip(true_list, list_, strict=True):
        hits.setdefault(one, []).append(one == other)
    assert abs(found - np.mean([np.mean(one) for one in hits.values()])) < 1e-12


def scores_of(case, n, k):
    scores = case.rng.normal(size=(n, k))
    if case.chance(0.3):
        scores = scores.round(1)  # ties
    scores = np.ldexp(scores, case.pick(*[0] * 6, 60, -60, 500, 1000, -1000))
    if case.odd(0.05, "scores that are no numbers"):
        return case.pick(scores.astype(str), np.full((n, k), np.nan), scores + 1j)
    if case.odd(0.03, "scores of another shape"):
        return case.pick(scores.ravel()[:k], scores[:, :-1], scores[..., None])
    form = case.pick("float64", "float64", "float32", "list", "int", "float16")
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if form == "list":
        return scores.tolist()
    if form == "float32" and np.isfinite(narrow).all():
        return narrow
    if form == "int" and np.abs(scores).max(initial=0) < 1e9:
        return (scores * 4).astype(int)
    if form == "float16" and np.abs(scores).max(initial=0) < 1e4:
        return scores.astype(np.float16)
    return scores


def exact_best(row, seen, penalty):
    """The best column in exact arithmetic; of equals an unseen one, then the first."""
    from fractions import Fraction

    off = Fraction(float(penalty))
    value = [Fraction(float(x)) - off * bool(s) for x, s in zip(row, seen, strict=True)]
    return min(range(len(row)), key=lambda j: (-value[j], seen[j], j))


def check_curve(case):
    n, k = int(case.rng.integers(1, 30)), int(case.rng.integers(2, 7))
    scores = scores_of(case, n, k)
    seen = case.rng.random(k) < 0.5
    y = case.rng.integers(0, k, n)
    if not (seen[y].any() and not seen[y].all()):
        case.must.append("rows of one side only")
    if case.odd(0.03, "a column that there is not"):
        y[0] = case.pick(k, -1)
    if case.odd(0.03, "seen is no bool"):
        seen = seen.astype(float) + 1
    penalty = case.pick(0, 0.5, -0.25, 1e3, np.inf, -np.inf, np.nan, "0.1", [0.1])
    if penalty in ("0.1", [0.1]) or penalty != penalty:
        case.must.append("a penalty that is none")
    given = y, scores, seen
    before = pickle.dumps(given)
    report = gzsl_report(y, scores, seen, penalty=penalty)
    curve = seen_unseen_curve(y, scores, seen)
    unchanged(given, before)
    table = np.asarray(scores, dtype=float)
    if np.isfinite(penalty):
        best = [exact_best(row, seen, penalty) for row in table]
    else:
        side = seen if penalty < 0 else ~seen
        best = [np.flatnonzero(side)[row[side].argmax()] for row in table]
    hit = {c: np.mean(np.array(best)[y == c] == c) for c in np.unique(y)}
    S = np.mean([hit[c] for c in hit if seen[c]])
    U = np.mean([hit[c] for c in hit if not seen[c]])
    assert abs(report.S - S) < 1e-9 and abs(report.U - U) < 1e-9
    assert abs(report.H - harmonic_mean(S, U)) < 1e-9
    assert 0 <= report.AUSUC <= 1 + 1e-12
    assert report.oracle_H >= report.H - 1e-12
    assert (np.diff(curve.seen) <= 1e-12).all() and (
        np.diff(curve.unseen) >= -1e-12
    ).all()


def check_imbalance(case):
    problem = Problem(case)
    case.must.clear()
    S = problem.P[problem.group]
    predicted = S + np.ldexp(case.rng.normal(size=S.shape), problem.S_power)
    if abs(problem.S_power) > 200:
        case.may.append("squares beyond the range")
    if case.odd(0.05, "NaN"):
        predicted[0, 0] = np.nan
    if case.odd(0.05, "another shape"):
        predicted = predicted[1:]
    classes = problem.targets() if case.chance(0.5) else None
    if any(reason in case.must for reason in ("one class", "a class is not described")):
        case.must.clear()
        return
    given = S, predicted, classes
    before = pickle.dumps(given)
    report = imbalance_report(S, predicted, classes)
    unchanged(given, before)
    if classes is not None:
        names = np.unique(problem.labels)
        for i, name in enumerate(names):
            mine = problem.labels == name
            expected = np.square(S[mine] - predicted[mine]).mean(axis=0)
            np.testing.assert_allclose(report.error[i], expected, rtol=1e-9)
    assert np.isfinite(report.error).all()
    for correlation in (report.pearson_over_classes, report.pearson_over_attributes):
        known = correlation[~np.isnan(correlation)]
        assert (np.abs(known) <= 1 + 1e-9).all()


def check_decoding(case):
    n, k, a = (int(case.rng.integers(1, high)) for high in (20, 8, 6))
    rng = case.rng
    predictions, prototypes = rng.normal(size=(n, a)), rng.normal(size=(k, a))
    metric = case.pick("cosine", "euclidean")
    power = case.pick(*[0] * 5, 60, -60, 400, -400, 1000, -1000)
    if metric == "euclidean" and abs(power) > 100:
        case.may.append("squares beyond the range")
    if case.chance(0.1):
        prototypes[rng.integers(k)] = prototypes[rng.integers(k)]
    if case.odd(0.05, "a class of zeros", must=metric == "cosine"):
        prototypes[rng.integers(k)] = 0
    if case.odd(0.05, "other widths"):
        prototypes = np.column_stack([prototypes, prototypes])
    if case.odd(0.05, "no numbers"):
        predictions = case.pick(
            predictions.astype(str),
            predictions * np.nan,
            predictions * 1j,
            predictions[0],
        )
    else:
        predictions = np.ldexp(predictions, power)
    prototypes = np.ldexp(prototypes, power)
    if abs(power) < 100 and case.chance(0.3) and not case.must:
        predictions = predictions.astype(np.float32)
        if case.chance(0.5):
            prototypes = prototypes.astype(np.float32)
    names = case.pick(None, np.array([f"c{i}" for i in range(k)]))
    given = predictions, prototypes, names
    before = pickle.dumps(given)
    scores = prototype_scores(predictions, prototypes, metric=metric)
    nearest = nearest_prototype(predictions, prototypes, names, metric=metric)
    m = int(rng.integers(1, k + 1))
    found, values = top_k(predictions, prototypes, m, names, metric=metric)
    unchanged(given, before)
    assert scores.shape == (n, k) and np.isfinite(scores).all()
    left, right = (np.ldexp(x.astype(float), -power) for x in (predictions, prototypes))
    if metric == "cosine":
        size = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
        expected = left @ right.T / size
    else:
        expected = -np.linalg.norm(left[:, None] - right, axis=2)
        scores, values = np.ldexp(scores, -power), np.ldexp(values, -power)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    number = scores.argmax(axis=1)
    same([nearest], [number if names is None else names[number]])
    for i in range(n):
        order = np.lexsort([np.arange(k), -scores[i]])[:m]
        same([found[i]], [order if names is None else names[order]])
        same([values[i]], [scores[i][order]])
    with_k = case.pick(0, k + 1, 2.0, True, "1")
    with pytest.raises(ValueError, match="number of classes to name"):
        top_k(predictions, prototypes, with_k, metric=metric)


def check_stacking(case):
    n, k = int(case.rng.integers(0, 20)), int(case.rng.integers(1, 7))
    scores, seen = scores_of(case, n, k), case.rng.random(k) < 0.5
    if not n or not np.isfinite(np.asarray(scores).astype(complex)).all():
        case.must.clear()  # NaN is left to those who made it
        return
    penalty = case.pick(0, 0.5, -0.25, 1e7, -1e30, 1e300, np.nan, np.inf, "0.1", True)
    if not isinstance(penalty, float | int) or isinstance(penalty, bool):
        case.must.append("a penalty that is none")
    elif not np.isfinite(penalty):
        case.must.append("a penalty that is none")
    if n == 0:
        case.may.append("no rows")
    given = scores, seen
    before = pickle.dumps(given)
    stacked = stack_calibrated(scores, seen, penalty)
    unchanged(given, before)
    table = np.asarray(scores)
    assert stacked.shape == table.shape and not np.isnan(stacked).any()
    for row, result in zip(table, stacked, strict=True):
        best = exact_best(row, seen, penalty)
        assert result[best] == result.max()


def check_loss(case):
    n, a, k = (int(case.rng.integers(1, high)) for high in (20, 6, 5))
    rng = case.rng
    pred, target = rng.normal(size=(2, n, a))
    if case.chance(0.2):
        target[:] = pred  # no error
    group = rng.integers(0, k, n)
    dtype = case.pick(torch.float32, torch.float64, torch.float32, torch.bfloat16)
    P, T = torch.tensor(pred, dtype=dtype), torch.tensor(target, dtype=dtype)
    G = torch.tensor(group)
    if case.odd(0.05, "no tensors"):
        P = case.pick(pred, pred.tolist(), None)
    if case.odd(0.05, "other shapes"):
        T = case.pick(T[1:], T[:, :, None], T[:, 0])
    if case.odd(0.05, "groups that are none"):
        G = case.pick(G.double(), G[1:], G.tolist(), G[:, None])
    powers = {
        "class_power": case.pick(0, 0.5, 1, 2),
        "attribute_power": case.pick(0, 1),
    }
    normalize, reduction = case.chance(0.5), case.pick("mean", "sum", "none")
    kind = case.pick(
        "remse", "remse", "running", "function", "mse", "mae", "rmse", "bmc"
    )
    if isinstance(P, torch.Tensor):
        P.requires_grad_()
    if kind in ("remse", "running"):
        more = {} if kind == "remse" else {"statistics": "running"}
        if case.chance(0.3):
            more["n_groups"] = k
            if case.odd(0.1, "a group beyond n_groups") and G is not None:
                more["n_groups"] = case.pick(0, -1, 1.5, "2", True)
        loss = ReMSELoss(
            **powers, normalize_weights=normalize, reduction=reduction, **more
        )
    elif kind == "function":
        value = remse_loss(
            P, T, G, **powers, normalize_weights=normalize, reduction=reduction
        )
        loss = None
    else:
        loss = {"mse": MSELoss, "mae": MAELoss, "rmse": RMSELoss, "bmc": BMCLoss}[
            kind
        ]()
        reduction = "mean"
    if loss is not None:
        value = loss(P, T, G)
    total = value if reduction == "mean" else value.sum()
    total.backward()
    assert torch.isfinite(value).all() and torch.isfinite(P.grad).all()
    error = np.square((P.detach().double() - T.double()).numpy())
    if kind in ("remse", "running", "function"):
        E = np.array([error[group == c].mean(axis=0) for c in np.unique(group)])
        with np.errstate(divide="ignore", invalid="ignore"):
            F = np.where(E > 0, E, np.inf)
            by_class = 1 + np.log(E / F.min(axis=0))
            by_attribute = 1 + np.log(E / F.min(axis=1, keepdims=True))
            W = by_class ** powers["class_power"]
            W = W * by_attribute ** powers["attribute_power"]
        W = np.where(E > 0, W, 1)[np.searchsorted(np.unique(group), group)]
        if normalize:
            W = W / W.mean()
        expected = W * error
        expected = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](
            expected
        )
    elif kind == "bmc":
        left, right = P.detach().double().numpy(), T.double().numpy()
        logits = -np.square(left[:, None] - right).sum(axis=2) / 2
        top = logits.max(axis=1, keepdims=True)
        share = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        expected = -2 * np.diag(share).mean()
    else:
        how = {"mse": np.mean, "mae": lambda e: np.sqrt(e).mean()}
        expected = how.get(kind, lambda e: np.sqrt(e.mean()))(error)
    np.testing.assert_allclose(value.detach().double(), expected, rtol=1e-3, atol=1e-4)


def check_table(case):
    problem = Problem(case)
    case.must.clear()
    table = problem.table()
    numbered = isinstance(table, np.ndarray)
    before = pickle.dumps(table)
    read = ClassTable.of(table)
    unchanged(table, before)
    order = case.rng.permutation(problem.n_classes)
    same([read.attributes[read.rows(problem.names[order])]], [problem.P[order]])
    assert read.numbered == numbered
    if numbered:
        return
    again = ClassTable.of(read, names=problem.names[order])
    same([again.names, again.attributes], [problem.names[order], problem.P[order]])


def check_file(case):
    """Best classes and attributes in a file are those of `predict`."""
    problem = Problem(case)
    labels = case.chance(0.7)
    model = ReZSLRegressor((), max_iter=1, random_state=0)
    if labels:
        table = problem.table()
        model = case.pick(ESZSL(table), ZeroShotClassifier(model, table))
    X = problem.X
    model.fit(X, problem.labels if labels else problem.P[problem.group])
    k = int(case.rng.integers(1, problem.n_classes + 1))
    more = {} if labels else {"prototypes": problem.P, "classes": problem.names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.h5"
        predict_to_hdf5(model, X, path, top_k=k, **more)
        with h5py.File(path) as file:
            scores, found = file["score"][:], file["index"][:]
            names = file["class_name"][:]
    assert np.isfinite(scores).all() and (np.diff(scores, axis=1) <= 0).all()
    best = model.predict(X, **more)
    if best.dtype.kind == "U":
        names = np.array([name.decode() for name in names], dtype=object)
    same([names[found[:, 0]]], [best])


CHECKS = {
    "ZeroShotClassifier": lambda case: check_classifier(case, ReZSLRegressor),
    "ZeroShotClassifier of regions": lambda c: check_classifier(c, AttentionRegressor),
    "ZeroShotStackingClassifier": lambda case: check_classifier(
        case, ZeroShotStackingClassifier
    ),
    "ESZSL": lambda case: check_classifier(case, ESZSL),
    "SAE": lambda case: check_classifier(case, SAE),
    "RidgePrototype": lambda case: check_classifier(case, RidgePrototype),
    "DAP": lambda case: check_classifier(case, DAP),
    "ALE": lambda case: check_classifier(case, ALE),
    "DEM": lambda case: check_classifier(case, DEM),
    "ClassNormalizedEmbedding": lambda case: check_classifier(
        case, ClassNormalizedEmbedding
    ),
    "ReZSLRegressor": lambda case: check_regressor(case, ReZSLRegressor),
    "AttentionRegressor": lambda case: check_regressor(case, AttentionRegressor),
    "partial_fit": check_partial_fit,
    "ReZSLSearchCV": check_search,
    "splitters": check_splitter,
    "scorers": check_scorer,
    "mean_per_class_accuracy": check_accuracy,
    "seen_unseen_curve": check_curve,
    "imbalance_report": check_imbalance,
    "decoding": check_decoding,
    "stack_calibrated": check_stacking,
    "losses": check_loss,
    "ClassTable": check_table,
    "predict_to_hdf5": check_file,
}
KINDS = list(CHECKS)


# ---- ends ------------------------------------------------------------------------


def is_ours(error):
    """Whether an error is raised on purpose, by this library or a check it asks for."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = frame.filename.replace("\\", "/")
    if not isinstance(error, ValueError | TypeError) or len(str(error).split()) < 4:
        return False
    if "/rezsl_sk/" in path:
        return frame.line.startswith("raise ")
    return "/sklearn/" in path and any(part in path for part in CHECKS_OF_SKLEARN)


def end_of(number):
    """How a case ended, or an AssertionError."""
    case, kind = Case(number), KINDS[number % len(KINDS)]
    said = f"case {number} ({kind}): "
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            CHECKS[kind](case)
        except AssertionError:
            raise
        except Exception as error:
            assert is_ours(error), f"{said}a foreign error: {error!r}"
            assert case.must or case.may, f"{said}refused, but nothing is odd: {error}"
            end = "refused"
        else:
            assert not case.must, f"{said}an answer in spite of {case.must}"
            end = "right"
    for warning in caught:
        assert warning.category in (UserWarning,), f"{said}{warning.message!r}"
    return kind, end


@pytest.mark.parametrize("number", range(69), ids="case{}-".format)
def test_a_right_answer_or_a_sentence(number):
    end_of(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(69, 5000), ids="case{}-".format)
def test_the_same_of_many_cases(number):
    end_of(number)


if __name__ == "__main__":
    ends = Counter()
    for number in range(*map(int, sys.argv[1:3])):
        try:
            kind, end = end_of(number)
        except Exception:
            kind, end = KINDS[number % len(KINDS)], "WRONG"
            print(f"---- case {number} ({kind})", traceback.format_exc(), sep="\n")
        ends[kind, end] += 1
    for kind in KINDS:
        print(kind, {end: n for (of, end), n in ends.items() if of == kind})
