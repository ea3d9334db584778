"""
Quickstart: name a digit that was never seen
============================================

Somebody gives you handwritten digits, but not one two, four or eight. Each digit is
described by the strokes it is drawn with: a line at the top, a loop below, and so on.
The model learns to see strokes on the seven digits it has examples of, and then finds
the digit whose description fits best, also among those it never saw.

Runs in seconds and needs no download. How settings are chosen is left for later
(:ref:`sphx_glr_auto_examples_plot_grid_search.py`).
"""

# %%
# What you need
# -------------
#
# Three things: a vector of features for each sample (here the 64 pixels of a digit of
# scikit-learn's), the name of each training sample's class, and a table with one row
# of attributes for *every* class, seen or not.

import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_digits_zero_shot
from rezsl_sk.metrics import mean_per_class_accuracy

digits = load_digits_zero_shot()
X, y = digits.X, digits.y
train, test = digits.trainval, digits.test_unseen

print("features:", X.shape, "- table:", digits.attributes.shape)
print("seen:   ", *digits.class_names[digits.seen_classes])
print("unseen: ", *digits.class_names[digits.unseen_classes])
two = digits.attributes[2]
print("a two has:", ", ".join(digits.attribute_names[two == 1]))

# %%
# Fit on the seen, name the unseen
# --------------------------------
#
# ``candidates="unseen"`` lets the classifier choose among the three unseen digits
# only. With ``"all"``, the default, all ten compete
# (:ref:`sphx_glr_auto_examples_plot_gzsl_calibration.py`).

classifier = ZeroShotClassifier(
    ReZSLRegressor(random_state=0),
    class_attributes=(digits.class_names, digits.attributes),
    candidates="unseen",
)
classifier.fit(X[train], y[train])
named = classifier.predict(X[test])

accuracy = mean_per_class_accuracy(y[test], named)
print(f"unseen digits named right: {accuracy:.3f} (guessing: 0.333)")

# %%
# What the model saw
# ------------------
#
# Underneath, a regressor predicts the attributes of each sample, in the units of the
# table. They are one side of the answer; the other compares the features with what
# digits of such strokes should look like (:doc:`/guide/method`). Where a digit is named
# wrongly, compare what was read off the picture with what the table says.

read = classifier.regressor_.predict(X[test])

wrong = np.flatnonzero(named != y[test])
shown = [np.flatnonzero((y[test] == name) & (named == name))[0] for name in ("two",)]
shown.append(wrong[0])

figure, axes = plt.subplots(
    2, 2, figsize=(9, 6.4), width_ratios=[1, 2.2], layout="constrained"
)
place = np.arange(len(digits.attribute_names))
for (picture, bars), i in zip(axes, shown, strict=True):
    picture.imshow(X[test[i]].reshape(8, 8), cmap="gray_r")
    picture.set(xticks=[], yticks=[])
    picture.set_title(f"a {y[test[i]]}, named {named[i]}")
    of_answer = digits.attributes[digits.class_names.tolist().index(named[i])]
    bars.barh(place, read[i], color="#0072b2", label="read off the picture")
    bars.plot(of_answer, place, "o", color="#d55e00", label=f"table: {named[i]}")
    bars.set_yticks(place, digits.attribute_names, fontsize=7)
    bars.invert_yaxis()
    bars.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
plt.show()

# %%
# Next: :ref:`choose settings without looking at unseen classes
# <sphx_glr_auto_examples_plot_grid_search.py>`, or bring :ref:`your own pictures
# <sphx_glr_auto_examples_plot_unseen_pictures.py>`.
