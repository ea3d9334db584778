"""
A class you think of tomorrow: a row of attributes, no retraining
=================================================================

A model of seven digits is trained and put away. Later somebody needs a two, then a
four, then an eight. Each time one row of attributes is written down, and the old model
names the new digit: nothing is trained again.
"""

# %%
# Today: seven digits, and a file
# -------------------------------
#
# The fitted model lives in NumPy arrays, so it can be stored by joblib or pickle and
# loaded on a machine without a GPU.

import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_digits_zero_shot

digits = load_digits_zero_shot()
known = digits.seen_classes
today = ZeroShotClassifier(
    ReZSLRegressor(random_state=0),
    class_attributes=(digits.class_names[known], digits.attributes[known]),
    seen_penalty="auto",
)
today.fit(digits.X[digits.trainval], digits.y[digits.trainval])
print("knows:", *today.classes_)

folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "digits.joblib")
joblib.dump(today, path)
print(f"stored in {path.stat().st_size / 1024:.0f} KiB")

# %%
# Tomorrow: write down how a two is drawn
# ---------------------------------------
#
# What is not mentioned is absent. A value between 0 and 1 means "in part" or "by some
# writers"; the units are those of the table that the model was fitted with.

strokes = {
    "two": {
        "line at the top": 1,
        "line at the upper right": 1,
        "line at the lower left": 0.5,
        "line at the bottom": 1,
        "diagonal stroke": 1,
        "straight lines": 0.5,
        "bay on the left above": 1,
    },
    "four": {
        "line at the upper left": 1,
        "line at the upper right": 0.5,
        "line across the middle": 1,
        "line at the lower right": 1,
        "upright stroke in the middle": 0.5,
        "diagonal stroke": 0.5,
        "straight lines": 1,
    },
    "eight": {
        "line at the top": 1,
        "line at the upper left": 1,
        "line at the upper right": 1,
        "line across the middle": 1,
        "line at the lower left": 1,
        "line at the lower right": 1,
        "line at the bottom": 1,
        "closed loop above": 1,
        "closed loop below": 1,
    },
}


def row(drawn):
    """Attributes in the order of the table, shape (1, a)."""
    return np.array([[drawn.get(name, 0.0) for name in digits.attribute_names]])


model = joblib.load(path)
folder.cleanup()
two = model.with_classes((["two"], row(strokes["two"])))
print("now knows:", *two.classes_)

# %%
# ``with_classes`` gives a fitted copy; the old one is as it was. Weights are shared, so
# a copy costs nothing.

weights = two.regressor_.coefs_[0]
print("same weights:", np.shares_memory(weights, model.regressor_.coefs_[0]))

# %%
# One after another
# -----------------
#
# Two questions can be asked about a new class. Among the *new* classes only: give the
# regressor their rows as prototypes. Among *all* classes the seen
# ones compete too, and a model prefers what it was trained on; the seen penalty, which
# ``seen_penalty="auto"`` chose when only seven digits were known, balances that.

names = list(strokes)
for n in (1, 2, 3):
    table = np.vstack([row(strokes[name]) for name in names[:n]])
    grown = model.with_classes((names[:n], table))
    rows = digits.test_unseen[np.isin(digits.y[digits.test_unseen], names[:n])]
    X, y = digits.X[rows], digits.y[rows]
    among_all = (grown.predict(X) == y).mean()
    among_new = (model.regressor_.predict(X, table, classes=names[:n]) == y).mean()
    print(f"{', '.join(names[:n])}")
    print(f"  among all {7 + n}: {among_all:.2f} right (guessing: {1 / (7 + n):.2f})")
    if n > 1:
        print(f"  among the {n} new: {among_new:.2f} right (guessing: {1 / n:.2f})")

# %%
# Some of the answers among all ten digits
# ----------------------------------------

rng = np.random.default_rng(0)
figure, axes = plt.subplots(3, 12, figsize=(9, 2.9), layout="constrained")
for line, name in zip(axes, names, strict=True):
    of_class = digits.test_unseen[digits.y[digits.test_unseen] == name]
    chosen = rng.choice(of_class, len(line), replace=False)
    for ax, i, answer in zip(
        line, chosen, grown.predict(digits.X[chosen]), strict=True
    ):
        ax.imshow(digits.X[i].reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        ax.set_title(
            answer, fontsize=9, color="#0072b2" if answer == name else "#d55e00"
        )
    line[0].set_ylabel(name)
plt.show()
