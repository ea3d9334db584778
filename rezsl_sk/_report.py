"""One page that says what a fitted zero-shot classifier knows, and what it does not."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import platform
import re
import reprlib
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from . import plotting
from ._repr import summary
from ._views import (
    attribute_view,
    final_estimator,
    fitted_with,
    is_classifier,
    is_regressor,
    score_view,
)
from .metrics import gzsl_report, mean_per_class_accuracy

N_HARDEST = {"unseen": 8, "seen": 4}  # classes told of at length
N_DIFFERENCES = 5  # attributes told of for two confused classes
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "matplotlib")


def report(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    *,
    path: str | os.PathLike[str],
    title: str | None = None,
    attribute_names: ArrayLike | None = None,
    picture_paths: ArrayLike | None = None,
    picture_root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one HTML page about a fitted zero-shot classifier.

    Scores, figures, the hardest classes with what they are taken for and why, and
    where everything comes from. The page holds all its pictures and needs no network.
    It is written under another name and renamed, so that there is never half a page.

    Parameters
    ----------
    estimator : zero-shot classifier, or Pipeline or search that ends in one
        Fitted.

    X : array-like of shape (n, d)
        Features of test samples, best of seen and of unseen classes.

    y : array-like of shape (n,)
        Their labels.

    path : path-like
        The page; an older one is replaced. Its folder must be there.

    title : str or None, default=None
        Heading. None: the kind of the classifier.

    attribute_names : array-like of shape (a,) or None, default=None
        Names of the attributes. None: those of the table, where it was a DataFrame.

    picture_paths : array-like of str, shape (n,), or None, default=None
        The samples' pictures, for a grid of right and wrong answers.

    picture_root : path-like or None, default=None
        Folder that `picture_paths` are relative to.

    Returns
    -------
    path : Path
        The page.

    Raises
    ------
    FileNotFoundError
        If the page's folder, or a picture, is not there.

    IsADirectoryError
        If `path` is a folder.

    ValueError
        If the estimator is no zero-shot classifier, or y has a class it does not
        know, or another length than X.

    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import rezsl_sk
    >>> from rezsl_sk.datasets import make_zero_shot
    >>> data = make_zero_shot(random_state=0)
    >>> clf = rezsl_sk.ZeroShotClassifier(
    ...     rezsl_sk.ReZSLRegressor(random_state=0),
    ...     class_attributes=(data.class_names, data.attributes),
    ... ).fit(data.X[data.trainval], data.y[data.trainval])
    >>> test = [*data.test_seen, *data.test_unseen]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = rezsl_sk.report(
    ...         clf, data.X[test], data.y[test], path=pathlib.Path(folder, "page.html")
    ...     )
    ...     page.name, page.read_text().startswith("<!DOCTYPE html>")
    ('page.html', True)
    """
    start = time.perf_counter()
    path = Path(path)
    _check_place(path)
    plotting._pyplot("report")
    final = final_estimator(estimator)
    if hasattr(final, "class_scores"):
        check_is_fitted(final)
    if not is_classifier(final):
        raise ValueError(
            f"a report tells of classes by their names and needs a fitted zero-shot "
            f"classifier, got {type(final).__name__}. Wrap a regressor in "
            "ZeroShotClassifier(regressor, class_attributes) and fit that."
        )
    y = np.asarray(y)
    if len(y) != len(X):
        raise ValueError(f"X has {len(X)} rows and y has {len(y)} labels.")
    facts = _Facts.of(estimator, final, X, y, attribute_names)
    title = f"{type(final).__name__}: what it knows" if title is None else str(title)
    parts = [
        _heading(title, facts),
        _scores(facts),
        _curve(facts),
        _hardest(facts),
        *_figures(facts, picture_paths, picture_root),
        _all_classes(facts),
        _provenance(facts, time.perf_counter() - start),
    ]
    _write(path, _PAGE.format(title=_text(title), style=_STYLE, body="\n".join(parts)))
    return path


# ---- what there is to tell --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Facts:
    """Everything the page says, as arrays.

    answers (n,) are the classifier's own; view: scores among seen and unseen classes;
    attributes: predicted attributes, or None where the classifier predicts none.
    classes (K,) are those of y, with seen, count and accuracy, all (K,).
    """

    estimator: BaseEstimator
    final: BaseEstimator
    X: ArrayLike
    y: np.ndarray
    answers: np.ndarray
    view: object
    attributes: object
    attribute_names: np.ndarray
    classes: np.ndarray
    seen: np.ndarray
    count: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, estimator, final, X, y, attribute_names):
        view = score_view(estimator, X, y, what="report")
        answers = estimator.predict(X)
        attributes = None
        if is_regressor(getattr(final, "regressor_", None)):
            attributes = attribute_view(estimator, X, y, attribute_names, what="report")
        n_attributes = final.class_attributes_.shape[1]
        if attribute_names is None:
            attribute_names = getattr(
                getattr(final, "regressor_", final), "attribute_names_", None
            )
        if attribute_names is None:
            attribute_names = [f"attribute {j}" for j in range(n_attributes)]
        classes, index, count = np.unique(y, return_inverse=True, return_counts=True)
        hits = np.bincount(index, weights=answers == y, minlength=len(classes))
        return cls(
            estimator=estimator,
            final=final,
            X=X,
            y=y,
            answers=answers,
            view=view,
            attributes=attributes,
            attribute_names=np.asarray(attribute_names).astype(str),
            classes=classes,
            seen=np.isin(classes, final.seen_classes_),
            count=count,
            accuracy=hits / count,
        )

    @property
    def of_seen(self):
        """Which samples are of seen classes (n,)."""
        return self.view.seen[self.view.column]

    def unseen_accuracy(self):
        """T1: class-mean accuracy of unseen samples among their classes, as the
        zero-shot scorer measures it. None without such samples."""
        rows = ~self.of_seen
        if not rows.any():
            return None
        columns = np.unique(self.view.column[rows])
        best = columns[self.view.scores[rows][:, columns].argmax(axis=1)]
        return mean_per_class_accuracy(self.view.column[rows], best)

    def among_all(self):
        """The GZSL report, or None without samples of both sides."""
        if self.of_seen.all() or not self.of_seen.any():
            return None
        view = self.view
        return gzsl_report(view.column, view.scores, view.seen, penalty=view.penalty)

    def space(self):
        """Attributes of the table's classes (C, a), standardised over the seen ones.

        0 for attributes that do not vary there.
        """
        table = self.final.class_attributes_
        seen = table[np.isin(self.final.class_names_, self.final.seen_classes_)]
        spread = seen.std(axis=0)
        varies = np.ptp(seen, axis=0) > 1e-6 * np.abs(seen).max(axis=0)
        scaled = (table - seen.mean(axis=0)) / np.where(varies, spread, 1)
        return scaled * varies

    def attribute_errors(self):
        """Mean squared error of each attribute (a,) on unseen samples, if any; NaN
        for attributes that take no part. None without predicted attributes."""
        view = self.attributes
        if view is None:
            return None
        rows = ~self.of_seen if not self.of_seen.all() else self.of_seen
        errors = np.full(len(self.attribute_names), np.nan)
        squared = np.square(view.target[rows] - view.predicted[rows])
        labels = np.unique(view.labels[rows], return_inverse=True)[1]
        share = 1 / np.bincount(labels)[labels]
        errors[self.varying()] = share @ squared / share.sum()
        return errors

    def varying(self):
        n = len(self.attribute_names)
        return np.setdiff1d(
            np.arange(n), self.attributes.regressor.constant_attributes_
        )


# ---- the parts of the page --------------------------------------------------------


def _heading(title, facts):
    n_unseen = int((~facts.seen).sum())
    kinds = [
        f"{n} {word}"
        for n, word in [(n_unseen, "unseen"), (len(facts.seen) - n_unseen, "seen")]
        if n
    ]
    return (
        f"<header><h1>{_text(title)}</h1><p>{len(facts.y)} test samples of "
        f"{' and '.join(kinds)} classes; {facts.final.class_attributes_.shape[1]} "
        f"attributes. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by rezsl_sk "
        f"{_version('rezsl-sk')}.</p></header>"
    )


def _scores(facts):
    view, T1, among_all = facts.view, facts.unseen_accuracy(), facts.among_all()
    cards, words = [], []
    if T1 is not None:
        n = int((~facts.seen).sum())
        cards.append(("T1", T1, f"unseen, among the {n} unseen classes"))
        words.append(
            f"Among the {n} unseen classes alone, {T1:.3f} of the samples of an unseen "
            f"class are named rightly; guessing gives {1 / n:.3f}."
        )
        idle = int((~view.seen).sum()) - n
        if idle:
            words.append(
                f"{idle} more unseen classes have no samples here; they compete in U, "
                "S and H."
            )
    if among_all is not None:
        n = len(view.classes)
        cards += [
            ("U", among_all.U, f"unseen, among all {n}"),
            ("S", among_all.S, f"seen, among all {n}"),
            ("H", among_all.H, "harmonic mean of U and S"),
            ("AUSUC", among_all.AUSUC, "area under the seen-unseen curve"),
        ]
        words.append(
            f"U, S and H are taken at the model's own seen penalty, {view.penalty:.3f}."
        )
    else:
        side = "unseen" if T1 is not None else "seen"
        if side == "unseen" and view.seen.any():
            rows = np.isin(facts.y, facts.final.classes_)
            if rows.any():
                hit = mean_per_class_accuracy(facts.y[rows], facts.answers[rows])
                n = len(facts.final.classes_)
                cards.append(("U", hit, f"unseen, among its {n} candidates"))
        if side == "seen":
            hit = mean_per_class_accuracy(facts.y, facts.answers)
            cards.append(("S", hit, "seen, among its candidates"))
        words.append(
            f"There are samples of {side} classes only, so there is no trade-off "
            "between seen and unseen classes to show (H, AUSUC)."
        )
    own = np.isin(facts.final.classes_, facts.final.seen_classes_)
    if (own.all() or not own.any()) and not view.seen.all():
        words.append(
            f"This classifier answers with {'seen' if own.all() else 'unseen'} classes "
            "only; U, S, H and the curve show what it would do among all."
        )
    seen_answer = np.isin(facts.answers, facts.final.seen_classes_)
    unseen = ~facts.of_seen
    if among_all is not None and own.any() and not own.all():
        words.append(
            f"{seen_answer[unseen].mean():.0%} of the samples of unseen classes are "
            f"taken for a seen class, {1 - seen_answer[~unseen].mean():.0%} of those "
            "of seen classes for an unseen one."
        )
    if among_all is not None:
        words.append(
            f"<span class=oracle>Oracle H {among_all.oracle_H:.3f} at penalty "
            f"{among_all.oracle_penalty:.3f}: chosen on these very samples, an upper "
            "bound and not a result.</span>"
        )
    words += _table_remarks(facts)
    boxes = "".join(
        f"<div class=card><b>{name}</b><strong>{value:.3f}</strong>"
        f"<small>{note}</small></div>"
        for name, value, note in cards
    )
    lines = "".join(f"<li>{line}</li>" for line in words)
    return (
        "<section><h2>Scores</h2><p>Accuracies are means over classes, from 0 to 1."
        f"</p><div class=cards>{boxes}</div><ul>{lines}</ul></section>"
    )


def _table_remarks(facts):
    """What is wrong with the table itself."""
    space = facts.space()
    still = facts.attribute_names[~space.any(axis=0)]
    if len(still):
        yield (
            f"{len(still)} attributes have one value over all seen classes and tell "
            f"nothing: {_listed(still)}."
        )
    held = getattr(getattr(facts.final, "regressor_", None), "validation_classes_", ())
    if len(held):
        yield (
            f"Early stopping held out {len(held)} of the seen classes, so nothing was "
            f"learnt from their samples: {_listed(facts.final.seen_classes_[held])}."
        )
    _, index, count = np.unique(
        space.round(6) + 0.0, axis=0, return_inverse=True, return_counts=True
    )
    twins = facts.final.class_names_[count[index.ravel()] > 1]
    if len(twins):
        yield (
            f"{len(twins)} classes share their description with another one, so nobody "
            f"can tell them apart: {_listed(twins)}. Describe them further."
        )


def _hardest(facts):
    told = np.isin(facts.classes, facts.final.classes_)
    stories = []
    for side, seen in (("unseen", False), ("seen", True)):
        mine = np.flatnonzero(told & (facts.seen == seen) & (facts.accuracy < 1))
        order = np.lexsort([-facts.count[mine], facts.accuracy[mine]])
        hardest = mine[order[: N_HARDEST[side]]]
        if len(hardest):
            told_of = "".join(_story(facts, k) for k in hardest)
            stories.append(f"<h3>{side.capitalize()} classes</h3>")
            stories.append(f"<div class=stories>{told_of}</div>")
    if not stories:
        return (
            "<section><h2>Hardest classes</h2><p>Every answer was right.</p></section>"
        )
    note = "Attributes are compared in units of their spread over the seen classes."
    if facts.attributes is not None:
        note += (
            " An attribute has <i>high error</i> if its mean squared error is in the "
            "highest quarter of all."
        )
    return (
        "<section><h2>Hardest classes, and what they are taken for</h2>"
        f"<p>{note}</p>{''.join(stories)}</section>"
    )


def _story(facts, k):
    """One class: how often it is right, for what it is taken, and why."""
    name = facts.classes[k]
    rows = facts.y == name
    wrong, count = np.unique(
        facts.answers[rows & (facts.answers != name)], return_counts=True
    )
    order = np.argsort(-count, kind="stable")
    other, times = wrong[order[0]], count[order[0]]
    also = ", ".join(f"{_text(wrong[i])} ({count[i]})" for i in order[1:4])
    head = (
        f"<b>{_text(name)}</b> is taken for <b>{_text(other)}</b> in {times} of "
        f"{facts.count[k]} samples; {facts.accuracy[k]:.0%} are right."
    )
    if also:
        head += f" Also for {also}."
    table, names = facts.final.class_attributes_, facts.final.class_names_
    here, there = (int(np.flatnonzero(names == x)[0]) for x in (name, other))
    space = facts.space()
    gap = np.abs(space[here] - space[there])
    far = np.argsort(-gap, kind="stable")[:N_DIFFERENCES]
    far = far[gap[far] > 1e-6]
    if not len(far):
        return (
            f"<article><p>{head}</p><p>Their attributes are equal, as far as the seen "
            "classes vary in them: describe one of them further.</p></article>"
        )
    errors = facts.attribute_errors()
    high = np.zeros(len(gap), dtype=bool)
    predicted = None
    if errors is not None:
        high = errors >= np.nanquantile(errors, 0.75)
        predicted = _mean_prediction(facts, rows)
    differ = ", ".join(_text(facts.attribute_names[j]) for j in far)
    tail = f"They differ in: {differ}"
    if high[far].any():
        hard = ", ".join(_text(facts.attribute_names[j]) for j in far if high[j])
        tail += f"; {hard} {'have' if high[far].sum() > 1 else 'has'} high error"
    header = ["attribute", "true", "taken for"]
    if predicted is not None:
        header += ["predicted", "error"]
    body = []
    for j in far:
        cells = [
            _breakable(facts.attribute_names[j]),
            f"{table[here, j]:.2g}",
            f"{table[there, j]:.2g}",
        ]
        if predicted is not None:
            mark = " <em>high</em>" if high[j] else ""
            cells += [f"{predicted[j]:.2g}", f"{errors[j]:.2f}{mark}"]
        body.append(cells)
    return f"<article><p>{head}</p><p>{tail}.</p>{_table(header, body)}</article>"


def _mean_prediction(facts, rows):
    """Mean predicted attributes (a,) of some samples, in the table's units."""
    view, regressor = facts.attributes, facts.attributes.regressor
    mean = np.array(regressor.attribute_offset_, dtype=float)
    keep = facts.varying()
    predicted = view.predicted[rows].mean(axis=0)
    if fitted_with(regressor, "attribute_scaling") == "l2":
        # Directions only: with the length of the class's own description.
        target = facts.final.class_attributes_[
            facts.final.class_names_ == view.labels[rows][0]
        ][0][keep]
        predicted = predicted * np.linalg.norm(target)
    mean[keep] += predicted * regressor.attribute_scale_[keep]
    return mean


def _curve(facts):
    if facts.among_all() is None:
        return ""
    return _figure(
        "Seen against unseen",
        "A larger seen penalty gives up accuracy on seen classes for accuracy on "
        "unseen ones. The dot is the model's own penalty; the diamond is an oracle, "
        "chosen on these samples, and not a result.",
        plotting.SeenUnseenCurveDisplay.from_predictions,
        facts.view.column,
        facts.view.scores,
        seen=facts.view.seen,
        penalty=facts.view.penalty,
    )


def _figures(facts, picture_paths, picture_root):
    """Sections with a figure each, those for which there is something to show."""
    final, y = facts.final, facts.y
    estimator, view = facts.estimator, facts.attributes
    side = "all" if facts.of_seen.all() else "unseen"
    rows = facts.of_seen if facts.of_seen.all() else ~facts.of_seen
    names = facts.attribute_names
    if view is None:
        yield (
            "<section><h2>Attributes</h2><p>Figures of attributes are left out: "
            f"{_text(type(final).__name__)} predicts no attributes.</p></section>"
        )
    else:
        kept = view.names if view.names is not None else names[facts.varying()]
        errors = {"classes": view.labels[rows], "attribute_names": kept}
        pair = view.target[rows], view.predicted[rows]
        yield _figure(
            "Errors of attributes",
            f"Mean squared error of each attribute over the {side} classes. "
            f"{_error_unit(view.regressor)} The leftmost attributes are read worst: "
            "better features help, or attributes that show better.",
            plotting.AttributeErrorDisplay.from_predictions,
            *pair,
            **errors,
        )
        yield _figure(
            "Value against error",
            "Each class and attribute once. Where error grows with the value, classes "
            "are read worst where they stand out: what re-weighting is for.",
            plotting.AttributeErrorDisplay.from_predictions,
            *pair,
            **errors,
            kind="value",
        )
        yield _figure(
            "Errors of classes and attributes",
            "Rows are classes, columns attributes, the hardest first.",
            plotting.ErrorMatrixDisplay.from_predictions,
            view.target,
            view.predicted,
            classes=view.labels,
            seen_classes=view.seen,
            attribute_names=kept,
            interpolation="none",  # the browser scales; ten times smaller
        )
        classes, first = np.unique(view.labels[rows], return_index=True)
        if len(classes) > 1 and len(kept) > 1:
            yield _figure(
                "Where predictions lie",
                f"Predicted attributes of the samples of {side} classes around the "
                "prototypes (stars). A line leads from each prototype to the mean of "
                "its samples.",
                plotting.PrototypeMapDisplay.from_predictions,
                view.labels[rows],
                view.predicted[rows],
                prototypes=view.target[rows][first],
                classes=classes,
            )
        loss = fitted_with(view.regressor, "loss")
        if loss == "remse" and len(view.regressor.error_matrix_):
            yield _figure(
                "What ReMSE weights up",
                "Weights at the end of training, by the loss's formula from the errors "
                "of the training classes.",
                plotting.WeightDisplay.from_estimator,
                estimator,
                attribute_names=names,
            )
        if len(getattr(view.regressor, "weight_curve_", ())):
            yield _figure(
                "Weights over training",
                "Mean weight of each attribute in each epoch; those that end highest "
                "and lowest are named.",
                plotting.WeightDisplay.from_estimator,
                estimator,
                attribute_names=names,
                kind="training",
            )
        if view.regressor.loss_curve_:
            yield _figure(
                "Training",
                "Terms of the objective over the epochs, and, with early stopping, "
                "the accuracy on held-out classes.",
                plotting.LossCurveDisplay.from_estimator,
                estimator,
            )
    if picture_paths is not None:
        yield _figure(
            "Pictures",
            f"One picture of each of some {side} classes, with the answer it got.",
            plotting.AnswerGridDisplay.from_predictions,
            y[rows],
            facts.answers[rows],
            paths=np.asarray(picture_paths)[rows],
            root=picture_root,
            as_picture=True,
        )


def _error_unit(regressor):
    if fitted_with(regressor, "attribute_scaling") != "standard":
        return "Errors are in the space of training."
    return "An error of 1 is that of always predicting the mean of the seen classes."


def _figure(heading, words, draw, *args, as_picture=False, **kwargs):
    """A section with a figure inside: drawn as vectors, pictures as pixels."""
    plt = plotting._pyplot("report")
    # Letters stay text, in the reader's fonts; the same data give the same bytes.
    style = {"svg.fonttype": "none", "svg.hashsalt": heading}
    kind = "png" if as_picture else "svg"
    metadata = (
        {} if as_picture else dict.fromkeys(["Date", "Creator", "Format", "Type"])
    )
    out = io.BytesIO()
    with plt.style.context(["default", style]), plt.ioff(), warnings.catch_warnings():
        # The reader's browser has letters that matplotlib's font has not.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        display = draw(*args, **kwargs)
        figure = display.figure_
        try:
            figure.savefig(out, format=kind, dpi=130, metadata=metadata)
        finally:
            plt.close(figure)
    width = figure.get_size_inches()[0]
    mime = "image/png" if as_picture else "image/svg+xml"
    data = base64.b64encode(out.getvalue()).decode("ascii")
    shape = " wide" if width > 7 else ""
    return (
        f"<section><h2>{heading}</h2><p>{words}</p><div class='figure{shape}'>"
        f'<img alt="{heading}. {_text(words)}" src="data:{mime};base64,{data}">'
        "</div></section>"
    )


def _all_classes(facts):
    rows = []
    order = np.lexsort([facts.classes.astype(str), facts.accuracy, facts.seen])
    for k in order:
        mine = facts.answers[facts.y == facts.classes[k]]
        wrong, count = np.unique(mine[mine != facts.classes[k]], return_counts=True)
        taken = f"{_text(wrong[count.argmax()])} ({count.max()})" if len(wrong) else ""
        rows.append(
            [
                _text(facts.classes[k]),
                "seen" if facts.seen[k] else "unseen",
                str(facts.count[k]),
                f"{facts.accuracy[k]:.3f}",
                taken,
            ]
        )
    header = ["class", "side", "samples", "accuracy", "mostly taken for"]
    return (
        f"<section><h2>All classes</h2><details><summary>{len(rows)} classes, the "
        f"hardest first</summary>{_table(header, rows)}</details></section>"
    )


def _provenance(facts, seconds):
    final = facts.final
    prints = [
        [name, *map(_text, fingerprint(values))]
        for name, values in [
            ("X", facts.X),
            ("y", facts.y),
            ("class_attributes_", final.class_attributes_),
            ("class_names_", final.class_names_),
        ]
    ]
    parameters = [
        [_text(name), _text(_short(value))]
        for name, value in facts.estimator.get_params(deep=True).items()
        if not hasattr(value, "get_params") and not name.endswith("steps")
    ]
    versions = [
        ["Python", platform.python_version()],
        ["platform", _text(platform.platform())],
        ["rezsl-sk", _version("rezsl-sk")],
        *([name, _version(name)] for name in PACKAGES),
    ]
    return (
        "<section><h2>Where it comes from</h2>"
        "<h3>Data</h3><p>SHA-256 of the values: of numbers in little-endian C order, "
        "of names as a JSON list.</p>"
        f"{_table(['array', 'shape', 'type', 'SHA-256'], prints)}"
        f"<details><summary>{len(parameters)} parameters</summary>"
        f"{_table(['parameter', 'value'], parameters)}</details>"
        f"<details><summary>Versions</summary>{_table(['', ''], versions)}</details>"
        f"<p>Figures and numbers took {seconds:.1f} s.</p></section>"
    )


def fingerprint(values):
    """Shape, dtype and SHA-256 of an array, three strings.

    Numbers: of the little-endian bytes in C order; names: of the JSON list.
    """
    array = np.asarray(values)
    if array.dtype.kind in "biufc":
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        data, kind = plain.data, str(array.dtype)
    else:
        names = [str(name) for name in array.ravel()]
        data, kind = json.dumps(names).encode(), "names"
    return str(array.shape), kind, hashlib.sha256(data).hexdigest()


# ---- text ---------------------------------------------------------------------------


def _text(value):
    return html.escape(str(value))


def _breakable(name):
    """A name that may be broken into lines where its parts meet."""
    return re.sub(r"([_:+/-]+)", r"\1<wbr>", _text(name))


def _listed(names, most=8):
    shown = ", ".join(_text(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(value):
    value = summary(value)
    return repr(value) if len(repr(value)) <= 60 else reprlib.repr(value)


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        from . import __version__

        return __version__ if package == "rezsl-sk" else "not installed"


def _table(header, rows):
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


# ---- the file -----------------------------------------------------------------------


def _check_place(path):
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; give the page a name in it, such as "
            f"{path / 'report.html'}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent} to write the page {path.name} to; make "
            "it first."
        )


def _write(path, page):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# The policy lets the page load nothing and run nothing, whatever a name may hold.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --paper: #fff; --ink: #1c2430;
  --soft: #5b6675; --line: #d9dee6; --mark: #0072b2; --warn: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181f; --paper: #1d232d;
  --ink: #e6e9ee; --soft: #a3adba; --line: #343c49; --mark: #6cb8ea;
  --warn: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
header p, section > p { color: var(--soft); max-width: 45rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 0; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
section { background: var(--paper); border: 1px solid var(--line);
  border-radius: .6rem; padding: 1rem; margin: 1rem 0; }
ul { padding-left: 1.2rem; margin: .8rem 0 0; max-width: 48rem; }
.cards { display: grid; gap: .6rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem;
  display: flex; flex-direction: column; }
.card b { color: var(--mark); }
.card strong { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.card small { color: var(--soft); line-height: 1.3; }
.oracle { color: var(--soft); }
.stories { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); }
article { border-top: 1px solid var(--line); padding: .6rem 0; min-width: 0; }
article p { margin: .2rem 0; }
em { color: var(--warn); font-style: normal; font-weight: 600; }
.figure { background: #fff; border-radius: .4rem; padding: .3rem; overflow-x: auto; }
.figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.figure.wide img { max-width: none; width: 100%; min-width: 52rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
.stories th, .stories td { padding-right: .5rem; }
.stories td { white-space: nowrap; }
.stories td:first-child { white-space: normal; }
summary { cursor: pointer; padding: .3rem 0; }
"""
