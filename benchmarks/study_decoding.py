"""What the two sides of a score owe to which of their parts, on development splits.

``python benchmarks/study_decoding.py ROOT DATASET... [--unseen FILE]`` takes pieces
away, one at a time, on class splits of the *training* classes (those of
``examples/benchmark.py``; the test classes are not read) and prints T1, the mean over
splits, beside the difference to the default estimator with a 95 % bootstrap interval.

attributes: ...
    the network's predicted attributes, compared by cosine (the paper's decoding), or
    by cosine under the inverse of the covariance of their residuals, shrunk half-way to
    its mean variance; residuals of training rows, or of classes held out in 3 folds.
features: ...
    the closed form alone, and without its Laplacian kernel, its random units, or its
    choice on folds.
ESZSL: ...
    with one fixed setting (features centred and of one length, attributes centred,
    penalties 1 and 0.01), without the inverse on the attribute side, and with the class
    weights brought to length 1.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import KFold

import rezsl_sk._feature_side as feature_side
from rezsl_sk import ReZSLRegressor
from rezsl_sk._scaling import unit_rows
from rezsl_sk.baselines import ESZSL
from rezsl_sk.decoding import prototype_scores
from rezsl_sk.metrics import mean_per_class_accuracy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import benchmark  # noqa: E402

REFERENCE = "both, feature_weight 0.67 (default)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder in xlsa17 layout")
    parser.add_argument("datasets", nargs="+", help="folders in ROOT, or caches (.h5)")
    parser.add_argument("--unseen", help="CSV of class, split for a cache without")
    parser.add_argument("--class-splits", type=int, default=10)
    parser.add_argument("--max-per-class", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    for name in args.datasets:
        data = benchmark.load(args.root, name, args.unseen)
        rows = Parallel(args.jobs)(
            delayed(one_split)(data, number, args.max_per_class)
            for number in range(args.class_splits)
        )
        print(f"\n### {data.name}: T1 on {args.class_splits} development splits\n")
        print("| | T1 | less the default |\n| --- | --- | --- |")
        reference = np.array([[row[REFERENCE]] for row in rows])
        for variant in rows[0]:
            T1 = np.array([[row[variant]] for row in rows])
            mean, low, high = benchmark.paired_difference(T1, reference)
            interval = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"| {variant} | {T1.mean():.3f} | {interval} |", flush=True)


def one_split(data, number, max_per_class):
    """T1 of every variant on one development split: {variant: T1}."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*cannot be told apart")  # true of the data
    split = benchmark.development_split(data, number, max_per_class)
    X, labels = data.X[split.train], data.labels[split.train]
    seen, group = np.unique(labels, return_inverse=True)
    X_test, y_test = data.X[split.test_unseen], data.labels[split.test_unseen]
    unseen, truth = np.unique(y_test, return_inverse=True)
    S, P = data.attributes[seen], data.attributes[unseen]
    found = {}

    def note(variant, scores):
        found[variant] = mean_per_class_accuracy(truth, scores.argmax(axis=1))

    reg = fitted(X, S, group)
    for weight in (0.33, 0.5, 0.67, 0.8):
        reg.feature_weight_ = weight
        end = " (default)" if weight == 0.67 else ""
        note(f"both, feature_weight {weight}{end}", reg._scores(X_test, P))

    reg.feature_weight_ = 0.0
    note("attributes: cosine", reg._scores(X_test, P))
    output, space = reg._outputs(X_test), reg._space.transform
    residual = reg._outputs(X) - space(S)[group]
    note("attributes: training residuals", trusted(output, space(P), residual))
    residual = []
    for kept, _ in KFold(3, shuffle=True, random_state=0).split(S):
        rows = np.isin(group, kept)
        number_of = np.searchsorted(kept, group[rows])
        part = fitted(X[rows], S[kept], number_of, feature_weight=0.0)
        if len(part._space.varying) < len(reg._space.varying):
            continue  # an attribute that only held-out classes have
        raw = part._space.inverse_transform(part._outputs(X[~rows]))
        residual.append(space(raw) - space(S)[group[~rows]])
    if residual:
        note(
            "attributes: residuals of held-out classes",
            trusted(output, space(P), np.concatenate(residual)),
        )

    reg.feature_weight_ = 1.0
    note("features: all of it", reg._scores(X_test, P))
    x, x_test = reg._features.transform(X), reg._features.transform(X_test)
    varying = reg._space.varying

    def side(variant, **replaced):
        kept = {name: getattr(feature_side, name) for name in replaced}
        try:
            for name, value in replaced.items():
                setattr(feature_side, name, value)
            one = feature_side.FeatureSide().fit(x, group, S[:, varying], 0)
            note(variant, one.similarities(x_test, one.weights(P[:, varying])))
        finally:
            for name, value in kept.items():
                setattr(feature_side, name, value)

    side("features: one draw of random units", N_DRAWS=1)
    side("features: without the Laplacian kernel", LAPLACE_SHARE=0.0)
    side("features: without random units", MOST_RANDOM=1)
    side(
        "features: penalties 1 and 1, no choice",
        FEATURE_PENALTIES=(1.0,),
        CLASS_PENALTIES=(1.0,),
    )

    eszsl = ESZSL(
        (data.class_names[np.r_[seen, unseen]], data.attributes[np.r_[seen, unseen]]),
        feature_scaling="l2",
        attribute_scaling="center",
        attribute_penalty=0.01,
    )
    for variant, changed in {
        "ESZSL: fixed setting": {},
        "ESZSL: no inverse on the attribute side": {"attribute_penalty": 1e6},
        "ESZSL: attributes standardised": {"attribute_scaling": "standard"},
        "ESZSL: features standardised": {"feature_scaling": "standard"},
    }.items():
        before = eszsl.get_params()
        eszsl.set_params(**changed).fit(X, data.class_names[labels])
        Z = eszsl._scaled(P).astype(np.float32)
        scaled = eszsl._features.transform(X_test)
        note(variant, eszsl._compare(scaled, Z))
        if not changed:
            weights = unit_rows(Z @ eszsl.coef_.T)
            note("ESZSL: weights of length 1", scaled @ weights.T)
        eszsl.set_params(**before)
    return found


def fitted(X, S, group, **parameters):
    """The default estimator on labels (n,), numbers of the rows of S."""
    reg = ReZSLRegressor(**{"random_state": 0, "device": "cpu", **parameters})
    X, targets = reg._check_X_S(X, S[group], reset=True)
    return reg._fit(X, targets, S.astype(targets.dtype), group, is_table=True)


def trusted(output, prototypes, residual):
    """Cosines under the inverse covariance of the residuals, shrunk half-way."""
    covariance = np.cov(residual.T, bias=True).reshape(len(residual[0]), -1)
    size = np.trace(covariance) / len(covariance)
    shrunk = 0.5 * covariance + 0.5 * size * np.eye(len(covariance))
    root = np.linalg.cholesky(np.linalg.inv(shrunk))
    return prototype_scores(output @ root, prototypes @ root)


if __name__ == "__main__":
    main()
