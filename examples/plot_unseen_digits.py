"""
The whole way, on handwritten digits
====================================

Seven of scikit-learn's ten digits are seen in training. The other three (two,
four and eight) are known from a table alone, which says for each digit which
strokes it is drawn with. The whole way, on pixels as features::

    features -> feature cache -> class-disjoint grid search -> fit
             -> unseen digits named, alone and among all ten

Nothing is chosen on unseen digits: settings and seen penalty come from folds
that hold out seen digits. Run ``python examples/plot_unseen_digits.py``; results
go to the folder ``demo_output`` (or to ``--out FOLDER``).
"""

# %%
# Features, once, into a cache that everything else reads
# -------------------------------------------------------
#
# Here the features are the pixels themselves; with real pictures :ref:`the extractor
# <sphx_glr_auto_examples_plot_unseen_pictures.py>` writes this file.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_digits_zero_shot
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.metrics import harmonic_mean, mean_per_class_accuracy
from rezsl_sk.model_selection import ClassShuffleSplit, zero_shot_scorer
from rezsl_sk.plotting import SeenUnseenCurveDisplay

BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind eyes too
parser = argparse.ArgumentParser(description="name digits never seen")
parser.add_argument("--out", type=Path, default=Path("demo_output"))
out = parser.parse_known_args()[0].out  # a notebook has arguments of its own
out.mkdir(parents=True, exist_ok=True)

digits = load_digits_zero_shot()
path = out / "digits.h5"
FeatureCache.from_arrays(
    path,
    digits.X,
    digits.y,
    class_attributes=(digits.class_names, digits.attributes),
    attribute_names=digits.attribute_names,
    metadata={"backbone": "none: the 64 pixels of scikit-learn's digits"},
    overwrite=True,
)
cache = FeatureCache(path)
X, y = np.asarray(cache.X), cache.y
train, test_seen, test_unseen = (
    digits.trainval,
    digits.test_seen,
    digits.test_unseen,
)
unseen = digits.class_names[digits.unseen_classes]
print(
    f"{len(X)} digits of {X.shape[1]} pixels; each class is described by "
    f"{len(cache.attribute_names)} strokes ({cache.attribute_names[0]}, "
    f"{cache.attribute_names[7]}, ...).\n"
    f"Seen in training: {', '.join(digits.class_names[digits.seen_classes])}.\n"
    f"Never seen, only described: {', '.join(unseen)}.\n"
)

# %%
# Settings, on folds that hold out seen digits
# --------------------------------------------
#
# Losses and weights of the classification term are compared on splits that hold out
# three of the seven seen digits.

search = GridSearchCV(
    ZeroShotClassifier(
        ReZSLRegressor(random_state=0),
        class_attributes=(cache.classes, cache.class_attributes),
    ),
    {
        "regressor__loss": ["mse", "remse"],
        "regressor__classification_weight": [0.1, 1.0],
    },
    cv=ClassShuffleSplit(6, test_size=3),
    scoring=zero_shot_scorer,
).fit(X[train], y[train])
chosen = {k.removeprefix("regressor__"): v for k, v in search.best_params_.items()}
print(
    f"Chosen on {search.n_splits_} splits that hold out 3 of the 7 seen digits: "
    f"{chosen}\n(held-out digits named right: {search.best_score_:.3f}).\n"
)

# %%
# Among the unseen digits only
# ----------------------------
#
# Fitted again on all seen digits with the settings chosen. The regressor names a
# sample by the best-scoring of the prototypes it is given.

model = clone(search.best_estimator_).set_params(seen_penalty="auto")
model.fit(X[train], y[train])
named = model.regressor_.predict(
    X[test_unseen],
    prototypes=digits.attributes[digits.unseen_classes],
    classes=unseen,
)
truth = y[test_unseen]
T1 = mean_per_class_accuracy(truth, named)
print(
    f"{len(truth)} digits of the unseen classes, named among these "
    f"{len(unseen)}: {T1:.3f} right (mean over classes; guessing gives "
    f"{1 / len(unseen):.3f})."
)
for name in unseen:
    answers, counts = np.unique(named[truth == name], return_counts=True)
    parts = [f"{c} x {a}" for a, c in zip(answers, counts, strict=True)]
    print(f"    {name:>6} was named: {', '.join(parts)}")

# %%
# Among all ten digits: generalised zero-shot learning
# ----------------------------------------------------
#
# Seen digits compete too; the seen penalty, chosen on seen digits, balances them.

rows = np.concatenate([test_seen, test_unseen])
display = SeenUnseenCurveDisplay.from_estimator(model, X[rows], y[rows])
print(
    f"\nNamed among all ten ({len(test_seen)} held-out samples of seen digits and "
    f"{len(test_unseen)} of unseen ones; AUSUC {display.curve.ausuc:.3f}):\n\n"
    "seen penalty                   unseen U   seen S       H"
)
for label, value in [("none", 0.0), ("chosen on seen digits", model.seen_penalty_)]:
    S, U = display.curve.at(value)
    H = harmonic_mean(S, U)
    print(f"{label:<22} {value:7.3f} {U:9.3f} {S:8.3f} {H:7.3f}")

# %%
# Looked at
# ---------
#
# Digits never seen in training, with the name given.

# sphinx_gallery_thumbnail_number = 2
figure, axes = plt.subplots(len(unseen), 14, figsize=(12, 3.4), layout="constrained")
rng = np.random.default_rng(0)
for line, name in zip(axes, unseen, strict=True):
    line[0].set_ylabel(name, fontsize=11)
    shown = rng.choice(np.flatnonzero(truth == name), len(line), replace=False)
    for ax, i in zip(line, shown, strict=True):
        ax.imshow(X[test_unseen[i]].reshape(8, 8), cmap="gray_r")
        good = named[i] == name
        title, colour = (named[i], BLUE) if good else (f"{named[i]} ✗", ORANGE)
        ax.set_title(title, fontsize=9, color=colour)
        ax.set(xticks=[], yticks=[])
figure.savefig(out / "unseen_digits.png", dpi=120)
print(f"\nFeature cache: {path}\nFigure: {out / 'unseen_digits.png'}")
plt.show()
