"""
Attention over regions: each attribute finds its own place
==========================================================

A picture's features are usually the mean over its regions, and a small part drowns in
it. :class:`~rezsl_sk.AttentionRegressor` takes the regions themselves: each attribute
asks every region how much it has to say, and is read where it shows. Where that is,
nobody tells it: it learns from the classes' attributes alone.
"""

# %%
# Pictures with three things in them
# ----------------------------------
#
# A class is a set of three symbols, such as "red disc"; they lie anywhere on a grid of
# 5 x 5 cells, among grey clutter. Ten of the fifty classes are never seen in training.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import AttentionRegressor, ReZSLRegressor
from rezsl_sk.metrics import mean_per_class_accuracy
from rezsl_sk.plotting import AttentionMapDisplay

COLOURS = {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.6, 0.25), "blue": (0.2, 0.3, 0.8)}
SHAPES = ("disc", "square", "cross", "ring")
WORDS = (*COLOURS, *SHAPES)
SYMBOLS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
CELL, GRID = 10, 5


def ink(shape, rng):
    """Which pixels (CELL, CELL) of a cell a shape covers."""
    row, column = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2 + rng.uniform(-0.7, 0.7)
    far, wide, narrow = (
        np.hypot(row, column),
        np.maximum(abs(row), abs(column)),
        np.minimum(abs(row), abs(column)),
    )
    return {
        "disc": far < 3.8,
        "square": wide < 3.3,
        "cross": (narrow < 1.2) & (wide < 4),
        "ring": (far < 4.2) & (far > 2.2),
    }[shape]


def draw(symbols, rng):
    """A picture (GRID * CELL, GRID * CELL, 3) with the symbols in random cells."""
    cells = np.ones((GRID * GRID, CELL, CELL, 3))
    order = rng.permutation(GRID * GRID)
    for place, name in zip(order, symbols, strict=False):
        colour, shape = name.split()
        cells[place, ink(shape, rng)] = COLOURS[colour]
    for place in order[len(symbols) : 20]:
        cells[place, ink(rng.choice(SHAPES), rng)] = rng.uniform(0.3, 0.8)
    cells = (cells + rng.normal(0, 0.08, cells.shape)).clip(0, 1)
    rows = cells.reshape(GRID, GRID, CELL, CELL, 3).swapaxes(1, 2)
    return rows.reshape(GRID * CELL, GRID * CELL, 3)


rng = np.random.default_rng(0)
table = np.zeros((50, len(SYMBOLS)))
sets = set()
while len(sets) < len(table):
    sets.add(tuple(sorted(rng.choice(len(SYMBOLS), 3, replace=False).tolist())))
for row, members in zip(table, rng.permutation(sorted(sets)), strict=True):
    row[members] = 1
y = np.repeat(np.arange(50), 30)
pictures = np.array(
    [draw([SYMBOLS[j] for j in np.flatnonzero(table[k])], rng) for k in y]
)
seen = y < 40
unseen_classes = np.arange(40, 50)

# %%
# Regions and names of attributes
# -------------------------------
#
# The features of a region are the pixels of its cell. With photographs, they are what
# ``rezsl-features extract --pool none`` caches. An attribute is asked for by the words
# of its name, so "red disc" and "red ring" share what red looks like; a text encoder's
# vectors serve as well.

regions = pictures.reshape(len(y), GRID, CELL, GRID, CELL, 3).swapaxes(2, 3)
X = regions.reshape(len(y), GRID * GRID, CELL * CELL * 3).astype(np.float32)
E = np.array([[float(word in name.split()) for word in WORDS] for name in SYMBOLS])
print(f"X: {X.shape}, embeddings of the attributes: {E.shape}")

# %%
# Fit, and name the unseen
# ------------------------
#
# By attributes alone (``feature_weight=0``), against the same without attention.


def accuracy(model, X):
    """Of naming the unseen classes by their attributes."""
    model.fit(X[seen], table[y[seen]])
    named = model.predict(X[~seen], prototypes=table[40:], classes=unseen_classes)
    return mean_per_class_accuracy(y[~seen], named)


options = {"feature_weight": 0, "random_state": 0}
attends = AttentionRegressor(E, **options)
for label, model, x in [
    ("mean over regions, linear", ReZSLRegressor((), **options), X.mean(axis=1)),
    ("mean over regions, MLP", ReZSLRegressor(**options), X.mean(axis=1)),
    ("attention, one-hot embeddings", AttentionRegressor(**options), X),
    ("attention, embeddings of words", attends, X),
]:
    T1 = accuracy(model, x)
    print(f"{label}: {T1:.3f} of unseen named right (guessing: 0.1)")

# %%
# Where it looks
# --------------
#
# Pictures of unseen classes, and the three attributes that the model finds in each.
# What an attribute looks at is bright.

with tempfile.TemporaryDirectory() as folder:
    rows = np.flatnonzero(~seen)[::60]
    paths = [f"{i}.png" for i in rows]
    for path, i in zip(paths, rows, strict=True):
        plt.imsave(Path(folder, path), pictures[i])
    AttentionMapDisplay.from_estimator(
        attends,
        X[rows],
        paths=paths,
        root=folder,
        attributes=3,
        attribute_names=SYMBOLS,
    )
plt.show()
