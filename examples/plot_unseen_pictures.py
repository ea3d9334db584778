"""
Your own pictures, from files to the names of unseen classes
============================================================

The script draws its own pictures: forty classes such as "red striped star", each
a colour, a pattern and a shape. Thirty are seen in training. The other ten are
known from a table only: which colour, which pattern, which shape. The whole way::

    pictures -> EfficientNet-Lite0 (trained on photographs) -> feature cache
             -> class-disjoint grid search -> fit -> unseen classes named

Nothing is chosen on unseen classes: settings and seen penalty come from folds
that hold out seen ones. Needs ``pip install "rezsl-sk[extract,demo,plot]"``; run
``python examples/plot_unseen_pictures.py``. Results go to the folder
``demo_output`` (or to ``--out FOLDER``).
"""

# %%
# Classes: a name is its attributes
# ---------------------------------
#
# With classes of your own the table may come from a spreadsheet, an expert or a
# lexicon: one row for each class, one column for each property that can be *seen*.

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageChops, ImageDraw
from rezsl_features import extract_features
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier, report
from rezsl_sk.metrics import harmonic_mean, mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer
from rezsl_sk.plotting import SeenUnseenCurveDisplay

COLOURS = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (50, 80, 200),
    "yellow": (230, 200, 40),
    "purple": (140, 60, 160),
}
PATTERNS = ("plain", "striped", "dotted")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
ATTRIBUTES = (*COLOURS, *PATTERNS, *SHAPES)
N_SEEN, N_UNSEEN, PER_CLASS, SIDE = 30, 10, 12, 112
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind eyes too

parser = argparse.ArgumentParser(description="name pictures of classes never seen")
parser.add_argument("--out", type=Path, default=Path("demo_output"))
out = parser.parse_known_args()[0].out  # a notebook has arguments of its own

names = [" ".join(parts) for parts in itertools.product(COLOURS, PATTERNS, SHAPES)]
rng = np.random.default_rng(0)
classes = rng.permutation(names)[: N_SEEN + N_UNSEEN]
table = np.array([[float(a in c.split()) for a in ATTRIBUTES] for c in classes])
seen, unseen = classes[:N_SEEN], classes[N_SEEN:]
print(
    f"{len(seen)} classes seen in training, such as {', '.join(seen[:3])}.\n"
    f"{len(unseen)} never seen, only described: {', '.join(unseen)}.\n"
)

# %%
# Pictures in folders, one for each class
# ---------------------------------------
#
# They vary in place, size, turn and tone. Skip this cell if you have your own.


def draw_pictures(folder, classes, rng):
    """A folder for each class, with pictures of varied place, size, turn and tone."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(PER_CLASS):
            picture = draw_picture(*name.split(), rng)
            picture.save(folder / name / f"{i:02d}.png")
    return folder


def draw_picture(colour, pattern, shape, rng):
    side = 2 * SIDE  # drawn at twice the size: smooth edges
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    radius = side * rng.uniform(0.28, 0.42)
    centre = side / 2 + rng.uniform(-1, 1, 2) * (side * 0.48 - radius)
    turn = rng.uniform(-0.25, 0.25)

    def ring_of(radii, n):
        angles = turn - np.pi / 2 + 2 * np.pi * np.arange(n) / n
        points = centre + np.resize(radii, n)[:, None] * np.column_stack(
            [np.cos(angles), np.sin(angles)]
        )
        return [tuple(point) for point in points]

    def disc(r, fill):
        pen.ellipse([*(centre - r), *(centre + r)], fill=fill)

    if shape in ("circle", "ring"):
        disc(radius, 255)
        if shape == "ring":
            disc(radius * 0.55, 0)
    elif shape == "cross":
        wide, narrow = radius, radius * 0.35
        for x, y in ((wide, narrow), (narrow, wide)):
            corners = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
            rotation = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
            pen.polygon([tuple(p) for p in centre + corners @ rotation], fill=255)
    else:
        corners = {
            "triangle": ring_of(radius, 3),
            "square": ring_of(radius, 4),
            "star": ring_of([radius, radius * 0.42], 10),
        }[shape]
        pen.polygon(corners, fill=255)

    holes = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(holes)
    step = side / rng.uniform(9, 12)
    if pattern == "striped":
        for x in np.arange(-side, side, step):
            pen.line([(x, 0), (x + side, side)], fill=0, width=round(step * 0.4))
    elif pattern == "dotted":
        for x, y in itertools.product(np.arange(step / 2, side, step), repeat=2):
            r = step * 0.28
            pen.ellipse([x - r, y - r, x + r, y + r], fill=0)
    mask = ImageChops.multiply(mask, holes)

    tone = np.array(COLOURS[colour]) + rng.integers(-20, 21, 3)
    ground = rng.integers(190, 256)
    picture = Image.new("RGB", (side, side), (ground,) * 3)
    picture.paste(tuple(int(t) for t in tone.clip(0, 255)), mask=mask)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


# %%
# Pictures to features, once
# --------------------------
#
# A second run finds the cache finished. On the command line the same is
# ``rezsl-features extract demo_output/pictures --backbone tf_efficientnet_lite0 ...``.
# ``workers=0`` reads the files in this process; with more of them, put the call below
# ``if __name__ == "__main__":``.

pictures = draw_pictures(out / "pictures", classes, rng)
cache = extract_features(
    pictures,
    "tf_efficientnet_lite0",
    out / "pictures.h5",
    weights="package:efficientnet-lite0",
    class_attributes=(classes, table),
    attribute_names=ATTRIBUTES,
    engine="channels-last",
    workers=0,
)
with cache:
    X, y, paths = cache.X[:], cache.y, cache.paths
print(f"{len(X)} pictures of {len(np.unique(y))} classes, {X.shape[1]} features.\n")
test_unseen = np.flatnonzero(np.isin(y, unseen))
of_seen = np.flatnonzero(np.isin(y, seen))
test_seen = of_seen[::5]  # pictures of a class lie side by side
train = np.setdiff1d(of_seen, test_seen)

# %%
# Settings, on folds that hold out seen classes
# ---------------------------------------------
#
# Two losses, with and without a hidden layer. ``ClassKFold`` keeps all pictures of a
# class on one side.

search = GridSearchCV(
    ZeroShotClassifier(
        ReZSLRegressor(random_state=0), class_attributes=(classes, table)
    ),
    {
        "regressor__loss": ["mse", "remse"],
        "regressor__hidden_layer_sizes": [(), (512,)],
    },
    cv=ClassKFold(3),
    scoring=zero_shot_scorer,
).fit(X[train], y[train])
chosen = {k.removeprefix("regressor__"): v for k, v in search.best_params_.items()}
print(
    f"Chosen on folds that hold out 10 of the 30 seen classes: {chosen}\n"
    f"(pictures of held-out classes named right: {search.best_score_:.3f}).\n"
)

# %%
# Among the unseen classes only
# -----------------------------
#
# Fitted again on all seen classes. A wrong answer usually shares two of the three
# attributes with the right one.

model = clone(search.best_estimator_).set_params(seen_penalty="auto")
model.fit(X[train], y[train])
truth = y[test_unseen]
named = model.regressor_.predict(
    X[test_unseen], prototypes=table[N_SEEN:], classes=unseen
)
T1 = mean_per_class_accuracy(truth, named)
print(
    f"{len(truth)} pictures of the unseen classes, named among these "
    f"{len(unseen)}: {T1:.3f} right (mean over classes; guessing gives "
    f"{1 / len(unseen):.3f})."
)
for name in unseen:
    answers, counts = np.unique(named[truth == name], return_counts=True)
    best = np.argsort(-counts, kind="stable")
    parts = ", ".join(f"{counts[i]} x {answers[i]}" for i in best)
    print(f"    {name:>22} was named: {parts}")

# %%
# Among all classes: generalised zero-shot learning
# -------------------------------------------------
#
# Seen classes compete too. Without a penalty they win too often.

rows = np.concatenate([test_seen, test_unseen])
display = SeenUnseenCurveDisplay.from_estimator(model, X[rows], y[rows])
print(
    f"\nNamed among all {len(classes)} ({len(test_seen)} held-out pictures of seen "
    f"classes and {len(test_unseen)} of unseen ones; AUSUC "
    f"{display.curve.ausuc:.3f}):\n\n"
    "seen penalty                    unseen U   seen S       H"
)
for label, value in [("none", 0.0), ("chosen on seen classes", model.seen_penalty_)]:
    S, U = display.curve.at(value)
    H = harmonic_mean(S, U)
    print(f"{label:<23} {value:7.3f} {U:9.3f} {S:8.3f} {H:7.3f}")

# %%
# Looked at
# ---------
#
# A column for each class never seen; below a picture its name, where it is wrong.

# sphinx_gallery_thumbnail_number = 2
per_class = 5
figure, axes = plt.subplots(
    per_class, len(unseen), figsize=(14, 7.6), layout="constrained"
)
figure.suptitle(f"never seen in training: {T1:.0%} named rightly among {len(unseen)}")
for column, name in zip(axes.T, unseen, strict=True):
    column[0].set_title(name.replace(" ", "\n"), fontsize=10)
    for ax, i in zip(column, np.flatnonzero(truth == name), strict=False):
        ax.imshow(plt.imread(pictures / paths[test_unseen[i]]))
        good = named[i] == name
        ax.set_xlabel("" if good else f"✗ {named[i]}", fontsize=8, color=ORANGE)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color=BLUE if good else ORANGE, linewidth=2)
figure.savefig(out / "unseen_pictures.png", dpi=90)

# %%
# A page to hand on
# -----------------
#
# ``report`` writes one HTML file, pictures included, that opens without network:
# scores, figures, the hardest classes with what they are taken for and which attributes
# tell them apart, and where everything comes from.

page = report(
    model,
    X[rows],
    y[rows],
    path=out / "unseen_pictures.html",
    title="Pictures of forty classes, ten of them never seen",
    attribute_names=ATTRIBUTES,
    picture_paths=paths[rows],
    picture_root=pictures,
)
print(f"\nFeature cache: {out / 'pictures.h5'}")
print(f"Figure: {out / 'unseen_pictures.png'}\nReport: {page}")
plt.show()
