"""A zero-shot benchmark without leaks: every method, the same budget, one look at test.

Needs data sets in the layout of the xlsa17 benchmark, or feature caches::

    python examples/benchmark.py path/to/data --datasets SNU AWA1_SHALLOW
    python examples/benchmark.py . --datasets emoji.h5 --unseen classes.csv
    python examples/benchmark.py . --datasets make_zero_shot make_zero_shot:1.0

A data set is a folder in ROOT, a feature cache (.h5), or make_zero_shot, after the
colon with an attribute imbalance from 0 to 1.

Splits
    *Development* splits are drawn from the training classes: a fifth of them plays
    unseen, a fifth of the rows of the others plays seen test rows. Decisions about
    the library are made on these. The *official* split, training against test
    classes, comes last.

Protocol, for each data set, split and method
    1. Hyper-parameters by class-disjoint cross-validation on the split's training
       rows, scored by accuracy among the held-out classes. The method's defaults are
       always tried, beside draws from its grid: --budget configurations in all for
       what is trained by gradient steps, four times as many for closed forms.
    2. The seen penalty by cross-validation on the same rows.
    3. For each seed one fit and one look at the split's test rows.

Files in --out
    results.csv has a line for each fit, table.md means and paired differences (the
    same to the byte for the same arguments), timing.md the seconds. What is finished
    lies in runs/, under a key of the data, the split, the method with all of its
    parameters, and the protocol: a second run takes up where the first was stopped.
    The key does not see changes of the library's code; empty the folder after those.

Each fit has one thread, on the CPU, whatever --jobs is, so that figures repeat.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sklearn
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import GridSearchCV, ParameterGrid, ParameterSampler
from threadpoolctl import threadpool_limits

import rezsl_sk
from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.baselines import (
    ALE,
    DAP,
    DEM,
    ESZSL,
    SAE,
    ClassNormalizedEmbedding,
    RidgePrototype,
)
from rezsl_sk.datasets import load_xlsa17, make_zero_shot
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.metrics import (
    gzsl_report,
    imbalance_report,
    mean_per_class_accuracy,
)
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

PROTOCOL = 1  # raise with every change that makes old results incomparable
CLOSED_FORM_BUDGET = 4  # times --budget: they are cheap, and must not lose by that
BOOTSTRAP = 10_000
FIGURES = {
    "T1": "T1",
    "U": "U",
    "S": "S",
    "H": "H",
    "oracle_H": "oracle H",
    "AUSUC": "AUSUC",
    "variation_unseen": "variation unseen",
    "variation_seen": "variation seen",
    "pearson_unseen": "Pearson unseen",
    "pearson_seen": "Pearson seen",
}
COMPARED = ("T1", "H", "variation_unseen", "variation_seen")


# ---- methods ------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """How to make an estimator, and the values among which its parameters are chosen.

    `make` is called when the method is used, so a method costs nothing before.
    An empty grid: the defaults, without a search. `generalised`: whether a seen
    penalty is calibrated, which takes as many fits as there are folds, and U, S
    and H are told.
    """

    make: Callable
    grid: dict = field(default_factory=dict)
    generalised: bool = True


def ours(**params):
    return lambda: ZeroShotClassifier(ReZSLRegressor(**params))


FEATURES = {"feature_scaling": ["l2", "standard"]}
TRAINED = {
    **FEATURES,
    "attribute_scaling": ["standard", "center"],
    "learning_rate_init": [3e-4, 1e-3, 3e-3],
    "max_iter": [10, 20, 40],
}
OURS = {
    f"regressor__{name}": values
    for name, values in {
        **TRAINED,
        "learning_rate_init": [1e-3, 3e-3],
        "dropout": [0.3, 0.5, 0.7],
        "classification_weight": [0.3, 1.0, 3.0],
    }.items()
}
FEATURES_OF_OURS = {"regressor__feature_scaling": FEATURES["feature_scaling"]}
METHODS = {
    "eszsl": Method(
        ESZSL,
        {
            **FEATURES,
            "feature_penalty": [0.1, 1.0, 10.0],
            "attribute_penalty": [0.001, 0.01, 0.1, 1.0],
            "attribute_scaling": ["l2", "center", "standard"],
        },
    ),
    "sae": Method(
        SAE,
        {
            **FEATURES,
            "encoder_weight": [0.01, 0.1, 1.0, 10.0, 100.0],
            "direction": ["to_attributes", "to_features"],
            "attribute_scaling": ["l2", "center", "standard"],
        },
    ),
    "ridge": Method(
        RidgePrototype,
        {
            **FEATURES,
            "feature_penalty": [0.01, 0.1, 1.0, 10.0],
            "attribute_scaling": ["l2", "center", "standard"],
        },
    ),
    "dap": Method(DAP, {**FEATURES, "feature_penalty": [1e-4, 1e-3, 1e-2, 1e-1]}),
    "ale": Method(
        ALE,
        {
            **TRAINED,
            "attribute_scaling": ["l2", "center", "standard"],
            "weight_decay": [1e-4, 1e-2, 1e-1],
            "margin": [0.1, 1.0],
        },
    ),
    "dem": Method(DEM, {**TRAINED, "weight_decay": [1e-4, 1e-2, 1e-1]}),
    "cn": Method(
        lambda: ClassNormalizedEmbedding(hidden_layer_sizes=(512, 512)),
        {**TRAINED, "weight_decay": [1e-4, 1e-2], "scale": [10.0, 25.0]},
    ),
    "mse-attributes": Method(ours(loss="mse", feature_weight=0.0), OURS),
    "remse-attributes": Method(ours(loss="remse", feature_weight=0.0), OURS),
    # No class is named by the attributes that this network predicts.
    "features-only": Method(
        ours(feature_weight=1.0, hidden_layer_sizes=(), max_iter=1), FEATURES_OF_OURS
    ),
    "mse": Method(ours(loss="mse"), OURS),
    "remse": Method(ours(loss="remse"), OURS),
    # Without a search both losses have the same settings: what differs is the loss.
    "mse-default": Method(ours(loss="mse")),
    "remse-default": Method(ours(loss="remse")),
}
# One loss instead of another and nothing else, decoded by attributes alone; "-alone":
# without the classification term.
LOSSES = {
    "mse": {"loss": "mse"},
    "mae": {"loss": "mae"},
    "rmse": {"loss": "rmse"},
    "bmc": {"loss": "bmc"},
    "remse": {"loss": "remse"},
    "remse-running": {"loss": "remse", "statistics": "running"},
    "remse-paper": {"loss": "remse", "normalize_weights": False},
    "remse-attribute": {"loss": "remse", "class_power": 0.0},
    "remse-class": {"loss": "remse", "attribute_power": 0.0},
}
for name, params in LOSSES.items():
    for end, weight in (("", 1.0), ("-alone", 0.0)):
        METHODS[f"loss-{name}{end}"] = Method(
            ours(**params, classification_weight=weight, feature_weight=0.0),
            generalised=False,
        )


def seed_parameter(estimator):
    """Name of the estimator's random state; None for a closed form."""
    names = [name for name in estimator.get_params() if name.endswith("random_state")]
    return names[0] if names else None


def configurations(estimator, grid, budget):
    """The defaults first, then draws from the grid: at most `budget` in all."""
    own = estimator.get_params()
    default = {name: own[name] for name in grid}
    n_drawn = min(budget, len(ParameterGrid(grid)))
    drawn = ParameterSampler(grid, n_drawn, random_state=0)
    return [default, *(params for params in drawn if params != default)][:budget]


# ---- data and splits ----------------------------------------------------------------


@dataclass
class Data:
    """A data set: features (n, d), labels (n,) into the table, and official rows."""

    name: str
    X: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    class_names: np.ndarray
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray

    def __post_init__(self):
        self.X = np.ascontiguousarray(self.X, dtype=np.float32)
        self.sha256 = fingerprint(
            self.X, self.labels, self.attributes, self.class_names
        )


@dataclass
class Split:
    """Row numbers: training, and the two kinds of test rows."""

    name: str
    train: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    max_per_class: int | None = None

    def __post_init__(self):
        self.sha256 = fingerprint(self.train, self.test_seen, self.test_unseen)

    @property
    def test(self):
        return np.concatenate([self.test_unseen, self.test_seen])


def fingerprint(*arrays):
    """SHA-256 over the content of arrays, the same on every machine."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        if array.dtype.kind in "iu":
            array = array.astype("<i8")
        elif array.dtype.kind in "USO":
            text = "\n".join(map(str, array.tolist()))
            array = np.frombuffer(text.encode(), dtype=np.uint8)
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def load(root, name, unseen):
    """A data set by folder, cache or make_zero_shot; None for tables without X."""
    if name.startswith("make_zero_shot"):
        imbalance = float(name.partition(":")[2] or 0)
        found = make_zero_shot(attribute_imbalance=imbalance, random_state=0)
    elif name.endswith(".h5"):
        return load_cache(Path(name), unseen)
    else:
        found = load_xlsa17(root, name)
    if found.X is None:
        return None
    keys = ("X", "labels", "attributes", "class_names")
    rows = ("trainval", "test_seen", "test_unseen")
    return Data(name, **{key: found[key] for key in (*keys, *rows)})


def load_cache(path, unseen):
    with FeatureCache(path) as cache:
        if cache.labels is None or cache.class_attributes is None:
            raise SystemExit(
                f"{path} has no labels or no class_attributes; write the cache with "
                "both to use it here."
            )
        rows = {k: cache.splits.get(k) for k in ("trainval", "test_seen")}
        rows["test_unseen"] = cache.splits.get("test_unseen")
        labels, classes = cache.labels.astype(np.int64), cache.classes
        if any(found is None for found in rows.values()):
            if unseen is None:
                raise SystemExit(
                    f"{path} has no splits trainval, test_seen and test_unseen; name "
                    "its unseen classes by --unseen FILE.csv (columns class, split)."
                )
            with open(unseen, newline="") as file:
                names = [
                    row["class"]
                    for row in csv.DictReader(file)
                    if row["split"] == "unseen"
                ]
            unknown = sorted(set(names) - set(classes.tolist()))
            if unknown or not names:
                raise SystemExit(
                    f"{unseen} must name unseen classes of {path}; it names "
                    f"{len(names)}, of which {unknown[:5]} are not in the cache."
                )
            is_unseen = np.isin(classes, names)[labels]
            kept, held = hold_out(
                labels, np.flatnonzero(~is_unseen), np.random.default_rng(0)
            )
            rows = {
                "trainval": kept,
                "test_seen": held,
                "test_unseen": np.flatnonzero(is_unseen),
            }
        return Data(
            path.stem,
            np.asarray(cache.X),
            labels,
            cache.class_attributes,
            classes,
            **rows,
        )


def hold_out(labels, rows, rng):
    """Rows of each class kept, and a fifth held out: at least one, never all."""
    kept, held = [], []
    for k in np.unique(labels[rows]):
        own = rng.permutation(rows[labels[rows] == k])
        n_held = min(max(1, round(0.2 * len(own))), len(own) - 1)
        held.append(own[:n_held])
        kept.append(own[n_held:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def development_split(data, number, max_per_class=None):
    """A fifth of the training classes plays unseen; only trainval rows are used."""
    rng = np.random.default_rng(number)
    labels, rows = data.labels, data.trainval
    classes = rng.permutation(np.unique(labels[rows]))
    unseen = classes[: max(2, round(0.2 * len(classes)))]
    is_unseen = np.isin(labels[rows], unseen)
    train, test_seen = hold_out(labels, rows[~is_unseen], rng)
    if max_per_class is not None:
        train = rng.permutation(train)
        train = np.sort(
            np.concatenate([train[labels[train] == k][:max_per_class] for k in classes])
        )
    name = f"development-{number}"
    return Split(name, train, test_seen, rows[is_unseen], max_per_class)


def official_split(data):
    return Split("official", data.trainval, data.test_seen, data.test_unseen)


class Rows:
    """Hands out rows of a data set, and remembers which were given for what."""

    def __init__(self, data):
        self._data = data
        self._given = {}

    def give(self, purpose, rows):
        """Features and labels of rows, noted down under `purpose`."""
        self._given.setdefault(purpose, set()).update(rows.tolist())
        names = self._data.class_names[self._data.labels[rows]]
        return self._data.X[rows], names

    def given(self, purpose, rows):
        """Whether any of the rows has been given for that purpose."""
        return not self._given.get(purpose, set()).isdisjoint(rows.tolist())


# ---- one data set, split and method -------------------------------------------------


@dataclass
class Job:
    data: Data
    split: Split
    method: str
    seeds: int
    budget: int
    folds: int
    out: Path

    def __post_init__(self):
        estimator = self.estimator()
        params = estimator.get_params(deep=True)
        closed = seed_parameter(estimator) is None
        self.n_seeds = 1 if closed else self.seeds
        budget = self.budget * (CLOSED_FORM_BUDGET if closed else 1)
        self.candidates = configurations(estimator, METHODS[self.method].grid, budget)
        self.key = {
            "protocol": PROTOCOL,
            "rezsl_sk": rezsl_sk.__version__,
            "data_sha256": self.data.sha256,
            "split_sha256": self.split.sha256,
            "method": self.method,
            "parameters": {k: repr(v) for k, v in sorted(params.items())},
            "candidates": self.candidates,
            "folds": self.folds,
            "max_per_class": self.split.max_per_class,
        }
        text = json.dumps(self.key, sort_keys=True)
        self.folder = (
            self.out
            / "runs"
            / self.data.name.replace(":", "-")
            / self.split.name
            / f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        )

    def estimator(self):
        """The method's estimator, without the table; see `with_table`."""
        estimator = METHODS[self.method].make()
        on_cpu = {k: "cpu" for k in estimator.get_params() if k.endswith("device")}
        return estimator.set_params(**on_cpu)

    def with_table(self):
        """The estimator with the attributes of the split's own classes.

        So the official unseen classes do not exist on a development split.
        """
        labels, split = self.data.labels, self.split
        classes = np.unique(labels[np.concatenate([split.train, split.test])])
        table = (self.data.class_names[classes], self.data.attributes[classes])
        return self.estimator().set_params(class_attributes=table)

    def seed(self, seed):
        name = seed_parameter(self.estimator())
        return {} if name is None else {name: seed}

    @property
    def parts(self):
        """Files of the finished job: the choice, and the figures of each seed."""
        seeds = [self.folder / f"seed-{seed}.json" for seed in range(self.n_seeds)]
        return [self.folder / "choice.json", *seeds]

    @property
    def finished(self):
        return all(part.is_file() for part in self.parts)


def run(job):
    """Do what is missing of a job. Returns None, or what went wrong."""
    try:
        with one_thread(), warnings.catch_warnings():
            # True of the data, and said at each of many fits.
            warnings.filterwarnings("ignore", ".*cannot be told apart")
            write_once(job.folder / "key.json", lambda: job.key)
            rows = Rows(job.data)
            choice, *figures = job.parts
            chosen = write_once(choice, lambda: choose(job, rows))
            for seed, path in enumerate(figures):
                write_once(path, lambda seed=seed: look(job, rows, chosen, seed))
    except Exception:
        return f"{job.data.name}, {job.split.name}, {job.method}:\n" + (
            traceback.format_exc()
        )
    return None


def choose(job, rows):
    """Hyper-parameters and seen penalty, from training rows alone."""
    X, y = rows.give("selection", job.split.train)
    estimator = job.with_table().set_params(**job.seed(0))
    params, score, start = job.candidates[0], None, time.perf_counter()
    if len(job.candidates) > 1:
        search = GridSearchCV(
            estimator,
            [{k: [v] for k, v in one.items()} for one in job.candidates],
            cv=ClassKFold(job.folds, random_state=0),
            scoring=zero_shot_scorer,
            refit=False,
            error_score=np.nan,  # a configuration that diverges only loses
        ).fit(X, y)
        params, score = search.best_params_, float(search.best_score_)
    searched = time.perf_counter()
    penalty = None
    if METHODS[job.method].generalised:
        model = estimator.set_params(**params, seen_penalty="auto").fit(X, y)
        penalty = float(model.seen_penalty_)
    return {
        "params": params,
        "search_score": score,
        "configurations": len(job.candidates),
        "seen_penalty": penalty,
        "test_used_for_selection": rows.given("selection", job.split.test),
        "search_seconds": searched - start,
        "calibration_seconds": time.perf_counter() - searched,
    }


def look(job, rows, chosen, seed):
    """One fit with the chosen settings and one look at the test rows: figures."""
    model = job.with_table().set_params(**chosen["params"], **job.seed(seed))
    X, y = rows.give("fit", job.split.train)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start

    X, y = rows.give("test", job.split.test)
    unseen_rows = slice(len(job.split.test_unseen))
    # The model was fitted without a penalty, so these scores are raw.
    scores = model.decision_function(X)
    seen = np.isin(model.classes_, model.seen_classes_)
    column = {name: k for k, name in enumerate(model.classes_.tolist())}
    truth = np.array([column[name] for name in y.tolist()])
    penalty = chosen["seen_penalty"]
    report = gzsl_report(truth, scores, seen, penalty=penalty or 0.0)
    among = np.flatnonzero(~seen)
    named = among[scores[unseen_rows, among].argmax(axis=1)]
    return {
        "T1": mean_per_class_accuracy(truth[unseen_rows], named),
        "U": None if penalty is None else report.U,
        "S": None if penalty is None else report.S,
        "H": None if penalty is None else report.H,
        "oracle_H": report.oracle_H,
        "AUSUC": report.AUSUC,
        **imbalance(model, job, X),
        "fit_seconds": seconds,
    }


def imbalance(model, job, X):
    """How unevenly the error falls on attributes, of unseen and of seen rows.

    Attributes are divided by their standard deviation over the seen classes.
    Empty for methods that name classes without predicted attributes.
    """
    names = [f"{f}_{s}" for s in ("unseen", "seen") for f in ("variation", "pearson")]
    found = dict.fromkeys(names)
    regressor = getattr(model, "regressor_", None)
    if regressor is None or getattr(regressor, "feature_weight", 0) == 1:
        return found
    labels, split = job.data.labels, job.split
    scale = job.data.attributes[np.unique(labels[split.train])].std(axis=0)
    varying = np.setdiff1d(np.flatnonzero(scale), regressor.constant_attributes_)
    true = job.data.attributes[labels[split.test]]
    predicted = regressor.predict(X).reshape(true.shape)
    true, predicted = ((S[:, varying] / scale[varying]) for S in (true, predicted))
    n = len(split.test_unseen)
    for side, rows in (("unseen", slice(n)), ("seen", slice(n, None))):
        report = imbalance_report(true[rows], predicted[rows], labels[split.test][rows])
        defined = report.pearson_over_classes
        defined = defined[np.isfinite(defined)]
        found[f"variation_{side}"] = report.attribute_variation
        found[f"pearson_{side}"] = float(defined.mean()) if len(defined) else None
    return found


def write_once(path, make):
    """Content of a JSON file, made and written under its name in one step if absent.

    What was just made is read back as well, so that a first and a resumed run go on
    with the same values.
    """
    if not path.is_file():
        content = json.dumps(make(), indent=1, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return json.loads(path.read_text())


def write_whole(path, text):
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


# ---- tables -------------------------------------------------------------------------


def collect(job):
    """Lines of results.csv: one for each seed."""
    choice, *seeds = (json.loads(part.read_text()) for part in job.parts)
    for seed, figures in enumerate(seeds):
        yield {
            "dataset": job.data.name,
            "data_sha256": job.data.sha256,
            "split": job.split.name,
            "split_sha256": job.split.sha256,
            "max_per_class": job.split.max_per_class,
            "n_train": len(job.split.train),
            "n_test_seen": len(job.split.test_seen),
            "n_test_unseen": len(job.split.test_unseen),
            "method": job.method,
            "seed": seed,
            "folds": job.folds,
            **choice,
            "params": json.dumps(choice["params"], sort_keys=True),
            **figures,
            "protocol": PROTOCOL,
            "rezsl_sk": rezsl_sk.__version__,
            "scikit_learn": sklearn.__version__,
            "torch": torch.__version__,
        }


def write_csv(path, lines):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    os.replace(temporary, path)


def by_split_and_seed(lines, figure):
    """An array (splits, seeds) of one figure of one method, None where it has none."""
    splits = {}
    for line in lines:
        splits.setdefault(line["split"], []).append(line[figure])
    values = list(splits.values())
    return None if values[0][0] is None else np.array(values, dtype=float)


def paired_difference(values, reference, n_resamples=BOOTSTRAP):
    """Mean difference of (splits, seeds), and its 95 % percentile interval.

    A bootstrap over splits, and over seeds within each split drawn. A method without
    randomness has one seed, which stands beside each of the other's.
    """
    difference = values - reference
    n_splits, n_seeds = difference.shape
    rng = np.random.default_rng(0)
    split = rng.integers(n_splits, size=(n_resamples, n_splits, 1))
    seed = rng.integers(n_seeds, size=(n_resamples, n_splits, n_seeds))
    means = difference[split, seed].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def table(lines, reference):
    """The Markdown text of table.md."""
    text = [
        f"<!-- examples/benchmark.py, protocol {PROTOCOL}. Figures only: the same "
        "arguments give the same file. -->"
    ]
    kinds = {
        "development splits": lambda line: line["split"] != "official",
        "official split": lambda line: line["split"] == "official",
    }
    for dataset in unique(line["dataset"] for line in lines):
        for kind, belongs in kinds.items():
            own = [x for x in lines if x["dataset"] == dataset and belongs(x)]
            if own:
                text += ["", f"### {dataset}, {kind}", "", *section(own, reference)]
    return "\n".join(text) + "\n"


def section(lines, reference):
    """Lines of Markdown for one data set and kind of split."""
    methods = {
        name: [line for line in lines if line["method"] == name]
        for name in unique(line["method"] for line in lines)
    }
    n_splits = len(unique(line["split"] for line in lines))
    n_seeds = max(line["seed"] for line in lines) + 1
    leaked = sorted({x["method"] for x in lines if x["test_used_for_selection"]})
    over = "splits (seeds averaged within)" if n_splits > 1 else "seeds"
    thinned = lines[0]["max_per_class"]
    yield (
        f"{count(n_splits, 'split')}, {count(n_seeds, 'seed')} (one for methods "
        f"without randomness), {lines[0]['folds']} folds"
        + (f", at most {thinned} training rows per class" if thinned else "")
        + f"; mean ± standard deviation over {over}. "
        + f"Data {lines[0]['data_sha256'][:12]}. "
        + f"Test rows used for selection: {', '.join(leaked) or 'none'}."
    )
    shown = [f for f in FIGURES if any(x[f] is not None for x in lines)]
    yield ""
    head = ["method", "configurations", *(FIGURES[name] for name in shown)]
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for name, own in methods.items():
        cells = [name, str(own[0]["configurations"])]
        for figure in shown:
            values = by_split_and_seed(own, figure)
            cells.append("" if values is None else mean_and_deviation(values))
        yield "| " + " | ".join(cells) + " |"

    others = [name for name in methods if name != reference]
    if reference not in methods or not others:
        return
    compared = [f for f in COMPARED if f in shown]
    yield ""
    yield (
        f"Difference to {reference}, paired by split and seed: mean [95 % bootstrap "
        f"interval over {'splits and ' if n_splits > 1 else ''}seeds]."
    )
    yield ""
    yield "| method | " + " | ".join(FIGURES[name] for name in compared) + " |"
    yield "|" + " --- |" * (len(compared) + 1)
    for name in others:
        cells = [name]
        for figure in compared:
            values = by_split_and_seed(methods[name], figure)
            against = by_split_and_seed(methods[reference], figure)
            cells.append(
                "" if values is None or against is None else interval(values, against)
            )
        yield "| " + " | ".join(cells) + " |"


def mean_and_deviation(values):
    spread = values.mean(axis=1) if len(values) > 1 else values[0]
    text = f"{values.mean():.3f}"
    return f"{text} ± {spread.std(ddof=1):.3f}" if len(spread) > 1 else text


def interval(values, reference):
    mean, low, high = paired_difference(values, reference)
    if (values - reference).size == 1:  # nothing to resample
        return f"{mean:+.3f}"
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def timing(lines):
    """The Markdown text of timing.md: mean seconds, one thread each."""
    names = ("search_seconds", "calibration_seconds", "fit_seconds")
    text = [
        "| data set | splits | method | search s | penalty s | fit s |",
        "|" + " --- |" * 6,
    ]
    groups = {}
    for line in lines:
        kind = "official" if line["split"] == "official" else "development"
        groups.setdefault((line["dataset"], kind, line["method"]), []).append(line)
    for key, own in groups.items():
        means = [f"{np.mean([line[name] for line in own]):.2f}" for name in names]
        text.append("| " + " | ".join([*key, *means]) + " |")
    return "\n".join(text) + "\n"


def unique(values):
    return list(dict.fromkeys(values))


def count(n, noun):
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# ---- the command --------------------------------------------------------------------


def main(arguments=None):
    """Run what is missing, write the tables. Returns 1 if a job failed, else 0."""
    args = parse(arguments)
    jobs = plan(args)
    missing = [job for job in jobs if not job.finished]
    print(
        f"{count(len(jobs), 'job')} (data set, split, method), "
        f"{len(jobs) - len(missing)} finished before.",
        flush=True,
    )
    results = Parallel(args.jobs, return_as="generator_unordered")(
        delayed(run)(job) for job in missing
    )
    errors = [error for error in progress(results, len(missing)) if error]
    lines = [line for job in jobs if job.finished for line in collect(job)]
    if lines:
        write_csv(args.out / "results.csv", lines)
        write_whole(args.out / "table.md", table(lines, args.reference))
        write_whole(args.out / "timing.md", timing(lines))
        print((args.out / "table.md").read_text(encoding="utf-8"))
    for error in errors:
        print(f"Failed, and not in the tables: {error}", file=sys.stderr)
    return int(bool(errors))


def plan(args):
    """All jobs, those of the official splits last."""
    development, official = [], []
    for name in args.datasets:
        data = load(args.root, name, args.unseen)
        if data is None:
            print(f"{name}: no features beside the tables, left out.", flush=True)
            continue
        splits = [
            development_split(data, number, args.max_per_class)
            for number in range(args.class_splits)
        ]
        common = (args.seeds, args.budget, args.folds, args.out)
        development += [
            Job(data, split, method, *common)
            for split in splits
            for method in args.methods
        ]
        if not args.development_only:
            split = official_split(data)
            official += [Job(data, split, method, *common) for method in args.methods]
    return development + official


def progress(results, total):
    """The results, behind a bar where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return results
    return tqdm(results, total=total, unit="job", disable=None, smoothing=0)


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("root", type=Path, help="folder of the data sets")
    parser.add_argument(
        "--datasets",
        nargs="+",
        help="folders in ROOT, feature caches (.h5), make_zero_shot[:IMBALANCE]; "
        "None: every folder in ROOT",
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD"
    )
    parser.add_argument(
        "--reference",
        metavar="METHOD",
        help="what the others are compared with; None: remse, or the first method",
    )
    parser.add_argument("--seeds", type=at_least(1), default=10, help="fits per split")
    parser.add_argument(
        "--class-splits", type=at_least(0), default=10, help="development splits"
    )
    parser.add_argument(
        "--budget", type=at_least(1), default=6, help="configurations per method"
    )
    parser.add_argument("--folds", type=at_least(2), default=3, help="folds of classes")
    parser.add_argument(
        "--development-only", action="store_true", help="leave test classes alone"
    )
    parser.add_argument(
        "--max-per-class",
        type=at_least(1),
        metavar="N",
        help="training rows per class on development splits; None: all",
    )
    parser.add_argument(
        "--unseen",
        type=Path,
        metavar="CSV",
        help="unseen classes of caches without splits (columns class, split)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("benchmark_out"))
    args = parser.parse_args(arguments)
    if args.datasets is None:
        args.datasets = sorted(p.name for p in args.root.iterdir() if p.is_dir())
    if args.reference is None:
        args.reference = "remse" if "remse" in args.methods else args.methods[0]
    if args.reference not in args.methods:
        parser.error(
            f"--reference {args.reference} is not among --methods; add it there."
        )
    return args


def at_least(low):
    def whole(text):
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value

    return whole


if __name__ == "__main__":
    sys.exit(main())
