"""Figures: what they draw is what was measured; pixels are for eyes."""

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.decoding import nearest_prototype
from rezsl_sk.losses import ReMSELoss
from rezsl_sk.metrics import gzsl_report, imbalance_report, seen_unseen_curve
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
plotting = pytest.importorskip("rezsl_sk.plotting")

NAMES = [f"attribute${i}$" for i in range(8)]  # would be mathematics


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    return make_zero_shot(
        9, 4, samples_per_class=12, n_features=16, n_attributes=8, random_state=0
    )


@pytest.fixture(scope="module")
def test(data):
    return np.concatenate([data.test_seen, data.test_unseen])


def classifier(data, scaling="standard", **parameters):
    table = pd.DataFrame(data.attributes, index=data.class_names, columns=NAMES)
    regressor = ReZSLRegressor(
        attribute_scaling=scaling, max_iter=4, random_state=0, device="cpu"
    )
    return ZeroShotClassifier(regressor, class_attributes=table, **parameters)


@pytest.fixture(scope="module")
def clf(data):
    model = classifier(data, seen_penalty=0.1)
    return model.fit(data.X[data.trainval], data.y[data.trainval])


def test_figures_show_the_parameters_of_fit(clf, data, test):
    """What is set later says nothing of this model."""

    def shown(model):
        of_weights = plotting.WeightDisplay.from_estimator(model)
        of_errors = plotting.ErrorMatrixDisplay.from_estimator(
            model, data.X[test], data.y[test]
        )
        return of_weights.weight, of_errors.error

    before, changed = shown(clf), copy.deepcopy(clf)
    changed.regressor_.set_params(
        loss="mse",
        class_power=0,
        attribute_power=0,
        normalize_weights=False,
        attribute_scaling="l2",
    )
    for one, other in zip(shown(changed), before, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- seen-unseen curve -------------------------------------------------------


def test_the_curve_is_that_of_the_report_at_the_models_penalty(clf, data, test):
    display = plotting.SeenUnseenCurveDisplay.from_estimator(
        clf, data.X[test], data.y[test]
    )
    seen = np.isin(clf.candidates_, clf.seen_classes_)
    scores = clf.decision_function(data.X[test]) + 0.1 * seen
    column = [clf.candidates_.tolist().index(name) for name in data.y[test]]
    report = gzsl_report(column, scores, seen, penalty=0.1)
    assert display.curve.ausuc == pytest.approx(report.AUSUC)
    np.testing.assert_array_equal(display.line_.get_xdata(), display.curve.unseen)
    np.testing.assert_array_equal(display.line_.get_ydata(), display.curve.seen)
    point = [report.U], [report.S]
    np.testing.assert_allclose(display.point_.get_data(), point, atol=1e-7)
    U, S = np.ravel(display.oracle_.get_data())
    assert 2 * U * S / (U + S) == pytest.approx(report.oracle_H)
    assert f"AUSUC {report.AUSUC:.3f}" in display.line_.get_label()


def test_the_oracle_is_named_so_and_only_where_it_is_drawn(clf, data, test):
    arguments = clf, data.X[test], data.y[test]
    display = plotting.SeenUnseenCurveDisplay.from_estimator(*arguments)
    assert any("oracle" in text.get_text() for text in legend(display))
    display = plotting.SeenUnseenCurveDisplay.from_estimator(*arguments, oracle=False)
    assert display.oracle_ is None
    assert not any("oracle" in text.get_text() for text in legend(display))


def legend(display):
    return display.ax_.get_legend().get_texts()


def test_several_models_share_an_axis_and_differ_in_colour(clf, data, test):
    first = plotting.SeenUnseenCurveDisplay.from_estimator(
        clf, data.X[test], data.y[test], name="one"
    )
    second = plotting.SeenUnseenCurveDisplay.from_estimator(
        clf, data.X[test], data.y[test], name="two", ax=first.ax_
    )
    assert second.ax_ is first.ax_ and second.figure_ is first.figure_
    assert second.line_.get_color() != first.line_.get_color()
    names = [text.get_text().split(":")[0] for text in legend(second)]
    assert names[:2] == ["one", "two"]


def test_pipelines_and_searches_are_looked_through(data, test):
    pipeline = make_pipeline(StandardScaler(), classifier(data))
    step = "zeroshotclassifier__regressor__loss"
    search = GridSearchCV(
        pipeline, {step: ["mse"]}, cv=ClassKFold(2), scoring=zero_shot_scorer
    ).fit(data.X[data.trainval], data.y[data.trainval])
    X, y = data.X[test], data.y[test]
    curves = [
        plotting.SeenUnseenCurveDisplay.from_estimator(model, X, y)
        for model in (search, search.best_estimator_)
    ]
    scaled = search.best_estimator_[0].transform(X)
    inner = search.best_estimator_[-1]
    curves.append(plotting.SeenUnseenCurveDisplay.from_estimator(inner, scaled, y))
    assert len({display.curve.ausuc for display in curves}) == 1
    assert curves[0].name == "ZeroShotClassifier"
    errors = [
        plotting.ErrorMatrixDisplay.from_estimator(search, X, y).error,
        plotting.ErrorMatrixDisplay.from_estimator(inner, scaled, y).error,
    ]
    np.testing.assert_array_equal(*errors)


def test_a_classifier_with_unseen_candidates_competes_among_all(clf, data, test):
    model = classifier(data, candidates="unseen")
    model.fit(data.X[data.trainval], data.y[data.trainval])
    curve = [
        plotting.SeenUnseenCurveDisplay.from_estimator(m, data.X[test], data.y[test])
        for m in (model, clf)
    ]
    assert curve[0].curve.ausuc == pytest.approx(curve[1].curve.ausuc)


def test_a_regressor_has_a_curve_over_rows_of_attributes(clf, data, test):
    S = data.attributes[data.labels]
    regressor = clf.regressor_
    display = plotting.SeenUnseenCurveDisplay.from_estimator(
        regressor, data.X[test], S[test]
    )
    other = plotting.SeenUnseenCurveDisplay.from_estimator(
        clf, data.X[test], data.y[test]
    )
    assert display.curve.ausuc == pytest.approx(other.curve.ausuc, abs=1e-4)


def test_unknown_labels_and_strangers_are_refused_in_a_sentence(clf, data, test):
    y = data.y[test].astype(object)
    y[0] = "yeti"
    with pytest.raises(ValueError, match=r"does not know: \['yeti'\]"):
        plotting.SeenUnseenCurveDisplay.from_estimator(clf, data.X[test], y)
    stranger = LogisticRegression().fit(data.X[test], data.y[test])
    with pytest.raises(ValueError, match="got LogisticRegression"):
        plotting.SeenUnseenCurveDisplay.from_estimator(
            stranger, data.X[test], data.y[test]
        )
    with pytest.raises(ValueError, match="LogisticRegression has none"):
        plotting.ErrorMatrixDisplay.from_estimator(stranger, data.X[test], data.y[test])


# ---- errors ------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["standard", "center", "l2", None])
def test_errors_on_the_training_data_are_the_fitted_error_matrix(data, scaling):
    rows = data.trainval
    model = classifier(data, scaling).fit(data.X[rows], data.y[rows])
    display = plotting.ErrorMatrixDisplay.from_estimator(
        model, data.X[rows], data.y[rows]
    )
    assert display.classes.tolist() == model.seen_classes_.tolist()
    assert display.seen.all()
    expected = model.regressor_.error_matrix_
    np.testing.assert_allclose(display.error, expected, rtol=1e-4, atol=1e-6)


def test_constant_attributes_are_left_out_with_their_names(data):
    S = data.attributes[data.labels]
    S[:, 3] = 5.0
    rows = data.trainval
    reg = ReZSLRegressor(max_iter=2, random_state=0, device="cpu")
    reg.fit(data.X[rows], pd.DataFrame(S[rows], columns=NAMES))
    display = plotting.ErrorMatrixDisplay.from_estimator(reg, data.X, S)
    assert display.error.shape == (13, 7)
    assert display.attribute_names.tolist() == NAMES[:3] + NAMES[4:]
    given = plotting.ErrorMatrixDisplay.from_estimator(
        reg, data.X, S, attribute_names=list("abcdefgh")
    )
    assert given.attribute_names.tolist() == list("abcefgh")
    with pytest.raises(ValueError, match="each of the 8 attributes"):
        plotting.ErrorMatrixDisplay.from_estimator(
            reg, data.X, S, attribute_names=["a"]
        )


def test_unseen_stand_above_seen_and_both_fall_by_error(clf, data, test):
    display = plotting.ErrorMatrixDisplay.from_estimator(
        clf, data.X[test], data.y[test]
    )
    seen = display.seen[display.class_order_]
    assert not seen[:4].any() and seen[4:].all()
    error = display.error.mean(axis=1)[display.class_order_]
    assert (np.diff(error[:4]) <= 0).all() and (np.diff(error[4:]) <= 0).all()
    columns = display.error.mean(axis=0)[display.attribute_order_]
    assert (np.diff(columns) <= 0).all()
    shown = display.image_.get_array().filled(np.nan)
    expected = display.error[display.class_order_][:, display.attribute_order_]
    np.testing.assert_array_equal(shown[~np.isnan(shown).any(axis=1)], expected)
    ticks = dict(
        zip(
            display.ax_.get_yticks(),
            [label.get_text() for label in display.ax_.get_yticklabels()],
            strict=True,
        )
    )
    for row, name in zip(
        np.flatnonzero(~np.isnan(shown).any(axis=1)),
        display.classes[display.class_order_],
        strict=True,
    ):
        assert ticks[row] == name


def test_names_are_thinned_at_717_classes_and_312_attributes():
    error = np.random.default_rng(0).random((717, 312))
    names = [f"a_rather_long_name_of_class_{i}" for i in range(717)]
    display = plotting.ErrorMatrixDisplay(
        error=error, classes=names, seen=np.arange(717) > 71
    ).plot()
    display.figure_.canvas.draw()
    for axis in (display.ax_.xaxis, display.ax_.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert len(boxes) > 20
        side = "x0" if axis is display.ax_.xaxis else "y0"
        distance = np.diff(np.sort([getattr(box, side) for box in boxes])).min()
        thickness = boxes[0].width if side == "x0" else boxes[0].height
        # Letters do not touch; the boxes around them may by a hair.
        assert distance > 0.75 * thickness
    first = display.ax_.get_yticklabels()[0].get_text()
    assert len(first) == 22 and "…" in first


def test_dollars_in_names_stay_dollars(clf, data, test):
    display = plotting.ErrorMatrixDisplay.from_estimator(
        clf, data.X[test], data.y[test]
    )
    for label in display.ax_.get_xticklabels():
        assert label._preprocess_math(label.get_text())[0].startswith("attribute$")
        assert label._preprocess_math(label.get_text())[1] is False


def test_attribute_errors_of_two_models_stand_in_one_order(clf, data, test):
    first = plotting.AttributeErrorDisplay.from_estimator(
        clf, data.X[test], data.y[test], name="one"
    )
    mse = classifier(data).set_params(regressor__loss="mse")
    mse.fit(data.X[data.trainval], data.y[data.trainval])
    second = plotting.AttributeErrorDisplay.from_estimator(
        mse, data.X[test], data.y[test], name="two", ax=first.ax_, order=first.order_
    )
    np.testing.assert_array_equal(first.order_, second.order_)
    for display in (first, second):
        expected = display.report.attribute_error[first.order_]
        np.testing.assert_array_equal(display.line_.get_ydata(), expected)
    assert (np.diff(first.line_.get_ydata()) <= 0).all()
    assert first.line_.get_marker() != second.line_.get_marker()
    with pytest.raises(ValueError, match="each number from 0 to 7 once"):
        second.plot(order=[0, 0, 1])


def test_value_against_error_has_the_correlation_of_all_entries(clf, data, test):
    display = plotting.AttributeErrorDisplay.from_estimator(
        clf, data.X[test], data.y[test], kind="value"
    )
    report = display.report
    expected = np.corrcoef(report.prototypes.ravel(), report.error.ravel())[0, 1]
    assert display.pearson_ == pytest.approx(expected)
    offsets = display.line_.get_offsets()
    np.testing.assert_array_equal(offsets[:, 0], report.prototypes.ravel())
    assert f"r = {expected:.2f}" in display.ax_.get_title(loc="left")


def test_value_against_error_of_one_value_has_no_correlation():
    display = plotting.AttributeErrorDisplay.from_predictions(
        np.ones((4, 2)), np.zeros((4, 2)), classes=[0, 0, 1, 1], kind="value"
    )
    assert np.isnan(display.pearson_)


def test_unknown_kinds_are_refused_in_a_sentence():
    report = imbalance_report([[0.0, 1.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 2.0]])
    display = plotting.AttributeErrorDisplay(report=report)
    with pytest.raises(ValueError, match=r"one of \('error', 'value'\), got 'pie'"):
        display.plot(kind="pie")
    with pytest.raises(ValueError, match="order belongs to kind='error'"):
        display.plot(kind="value", order=[0, 1])


# ---- weights -------------------------------------------------------------------


@pytest.mark.parametrize("powers", [(1.0, 1.0), (2.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("normalize", [True, False])
def test_weights_are_those_of_the_loss(powers, normalize):
    rng = np.random.default_rng(0)
    S, predicted = np.eye(5)[:, :4].repeat(3, axis=0), rng.random((15, 4))
    group = np.arange(5).repeat(3)
    loss = ReMSELoss(*powers, normalize_weights=normalize)
    loss(torch.from_numpy(predicted), torch.from_numpy(S), torch.from_numpy(group))
    display = plotting.WeightDisplay.from_predictions(
        S,
        predicted,
        classes=group,
        class_power=powers[0],
        attribute_power=powers[1],
        normalize_weights=normalize,
    )
    np.testing.assert_allclose(display.weight, loss.weight_.numpy())
    mean = display.weight.mean(axis=0)
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), mean[display.order_])


def test_weights_of_classes_carry_their_names(clf):
    display = plotting.WeightDisplay.from_estimator(clf, kind="class")
    assert display.weight.shape == (9, 8)
    shown = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert shown == clf.seen_classes_[display.order_].tolist()
    assert display.attribute_names.tolist() == NAMES


def test_weights_of_another_loss_are_refused(data):
    model = classifier(data).set_params(regressor__loss="mse", regressor__max_iter=1)
    model.fit(data.X[data.trainval], data.y[data.trainval])
    with pytest.raises(ValueError, match="loss='mse', which weights nothing"):
        plotting.WeightDisplay.from_estimator(model)


def test_weights_without_a_class_table_are_refused(data):
    rng = np.random.default_rng(0)
    reg = ReZSLRegressor(max_iter=1, random_state=0, device="cpu")
    reg.fit(data.X, rng.random((len(data.X), 3)))
    with pytest.raises(ValueError, match="no class table"):
        plotting.WeightDisplay.from_estimator(reg)


def test_weights_over_training_name_the_strongest_and_the_weakest():
    curve = np.linspace(1, [3.0, 2.0, 1.0, 0.5, 0.2, 0.1], 4)
    display = plotting.WeightDisplay(
        weight=np.ones((2, 6)), weight_curve=curve, attribute_names=list("abcdef")
    ).plot(kind="training")
    for j, line in enumerate(display.lines_):
        np.testing.assert_array_equal(line.get_ydata(), curve[:, j])
    assert display.order_.tolist() == [0, 1, 2, 3, 4, 5]
    assert {text.get_text() for text in display.ax_.texts} == set("abcdef")
    with pytest.raises(ValueError, match="none were recorded"):
        plotting.WeightDisplay(weight=np.ones((2, 6))).plot(kind="training")


def test_weights_over_training_are_those_the_fit_recorded(data):
    S = data.attributes[data.labels]
    S[:, 3] = 5.0  # takes no part
    reg = ReZSLRegressor(max_iter=3, random_state=0, device="cpu")
    reg.fit(data.X[data.trainval], S[data.trainval])
    display = plotting.WeightDisplay.from_estimator(reg, kind="training")
    assert len(display.lines_) == 7
    for line, curve in zip(
        display.lines_, np.delete(reg.weight_curve_, 3, axis=1).T, strict=True
    ):
        np.testing.assert_array_equal(line.get_ydata(), curve)
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])


# ---- loss curve ----------------------------------------------------------------


def test_loss_curves_are_those_of_the_fit(data):
    model = classifier(data).set_params(regressor__early_stopping=True)
    model.fit(data.X[data.trainval], data.y[data.trainval])
    reg = model.regressor_
    display = plotting.LossCurveDisplay.from_estimator(model)
    for name, values in [
        ("loss", reg.loss_curve_),
        ("regression", reg.regression_loss_curve_),
        ("classification", reg.classification_loss_curve_),
        ("validation", reg.validation_scores_),
    ]:
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), values)
        np.testing.assert_array_equal(
            display.lines_[name].get_xdata(), np.arange(1, len(values) + 1)
        )
    assert display.validation_ax_ is display.lines_["validation"].axes


def test_terms_that_took_no_part_are_not_drawn(data):
    model = classifier(data).set_params(regressor__classification_weight=0.0)
    model.fit(data.X[data.trainval], data.y[data.trainval])
    display = plotting.LossCurveDisplay.from_estimator(model)
    assert sorted(display.lines_) == ["loss", "regression"]
    assert display.validation_ax_ is None


def test_two_loss_curves_share_the_right_axis():
    first = plotting.LossCurveDisplay(
        loss=[3, 2], regression=[1, 1], classification=[2, 1], validation=[0.1, 0.2]
    ).plot()
    second = plotting.LossCurveDisplay(
        loss=[4, 2], regression=[1, 1], classification=[3, 1], validation=[0.2, 0.3]
    ).plot(first.ax_, name="other")
    assert second.validation_ax_ is first.validation_ax_
    assert len(legend(second)) == 8
    assert second.lines_["loss"].get_linestyle() != first.lines_["loss"].get_linestyle()


# ---- map -----------------------------------------------------------------------


def test_the_map_names_the_nearest_prototype_in_the_full_space(clf, data):
    rows = data.test_unseen
    display = plotting.PrototypeMapDisplay.from_estimator(
        clf, data.X[rows], data.y[rows]
    )
    reg, unseen = clf.regressor_, data.unseen_classes
    offset, scale = reg.attribute_offset_, reg.attribute_scale_
    expected = nearest_prototype(
        (reg.predict(data.X[rows]) - offset) / scale,
        (data.attributes[unseen] - offset) / scale,
        data.class_names[unseen],
    )
    np.testing.assert_array_equal(display.y_pred, expected)
    assert display.classes.tolist() == sorted(data.class_names[unseen])


def test_the_map_keeps_distances_where_two_axes_tell_all():
    prototypes = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    predicted = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    display = plotting.PrototypeMapDisplay.from_predictions(
        ["a", "b"], predicted, prototypes=prototypes, classes=["a", "b", "c"]
    )
    assert display.explained.sum() == pytest.approx(1)
    # Directions, not lengths: the samples lie on prototypes a and c.
    np.testing.assert_allclose(display.samples, display.prototypes[[0, 2]], atol=1e-12)
    assert display.y_pred.tolist() == ["a", "c"]


def test_maps_of_many_classes_show_right_and_wrong():
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(717, 20))
    y = rng.integers(0, 717, 300)
    predicted = prototypes[y] + rng.normal(size=(300, 20))
    display = plotting.PrototypeMapDisplay.from_predictions(
        y, predicted, prototypes=prototypes, classes=np.arange(717)
    )
    right = int((nearest_prototype(predicted, prototypes) == y).sum())
    assert 0 < right < 300
    texts = [text.get_text() for text in legend(display)]
    assert texts == [f"nearest prototype right ({right})", f"wrong ({300 - right})"]
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    assert 10 < len(boxes) <= 60
    cover = sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert cover <= 0.1 * len(boxes)


def test_a_map_of_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes and 2 attributes"):
        plotting.PrototypeMapDisplay.from_predictions(
            ["a"], [[1.0, 2.0]], prototypes=[[1.0, 2.0]], classes=["a"]
        )


# ---- pictures ------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    names = ["seal", "seal", "otter", "otter", "fox"]
    paths = []
    for i, name in enumerate(names):
        (tmp_path / name).mkdir(exist_ok=True)
        paths.append(f"{name}/{i}.png")
        plt.imsave(tmp_path / paths[-1], np.full((6, 6, 3), i / 5))
    return tmp_path, np.array(paths), np.array(names)


def test_the_grid_shows_each_class_once_with_its_answer(pictures):
    root, paths, names = pictures
    answers = np.array(["seal", "seal", "seal", "seal", "bear"])
    display = plotting.AnswerGridDisplay.from_predictions(
        names, answers, paths=paths, root=root, n_columns=2
    )
    assert names[display.right_].tolist() == ["seal"]
    assert sorted(names[display.wrong_]) == ["fox", "otter"]
    for axis, i in zip(display.axes_, [*display.right_, *display.wrong_], strict=True):
        shown = axis.images[0].get_array()
        np.testing.assert_allclose(shown[..., 0], i / 5, atol=0.01)
        assert answers[i] in axis.get_title()
        # A small picture of what it was taken for, where there is one.
        expected = names[i] != answers[i] and answers[i] in names
        assert bool(axis.child_axes) == expected
    assert display.ax_.figure is display.figure_


def test_the_grid_of_an_estimator_shows_its_answers(clf, data, pictures):
    root, paths, _ = pictures
    rows = data.test_unseen[:5]
    display = plotting.AnswerGridDisplay.from_estimator(
        clf, data.X[rows], data.y[rows], paths=paths, root=root
    )
    np.testing.assert_array_equal(display.y_pred, clf.predict(data.X[rows]))
    with pytest.raises(ValueError, match="got 4, 5 and 5"):
        plotting.AnswerGridDisplay.from_estimator(
            clf, data.X[rows], data.y[rows], paths=paths[:4], root=root
        )


def test_grids_leave_the_users_axes_where_they_are(pictures):
    root, paths, names = pictures
    figure, ax = plt.subplots()
    before = ax.get_position().bounds
    display = plotting.AnswerGridDisplay.from_predictions(
        names, names, paths=paths, root=root, ax=ax
    )
    assert display.ax_ is ax and display.figure_ is figure
    assert ax.get_position().bounds == before


# ---- matplotlib is an extra ------------------------------------------------------


def run_without_matplotlib(code):
    script = f"import sys; sys.modules['matplotlib'] = None\n{code}"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )


def test_without_matplotlib_a_sentence_says_what_to_install():
    done = run_without_matplotlib(
        "from rezsl_sk.plotting import WeightDisplay\n"
        "WeightDisplay(weight=[[1.0, 2.0]]).plot()"
    )
    assert "ImportError: WeightDisplay draws with matplotlib" in done.stderr
    assert "pip install 'rezsl-sk[plot]'" in done.stderr


def test_without_matplotlib_a_report_says_what_to_install(tmp_path):
    done = run_without_matplotlib(
        f"import rezsl_sk; rezsl_sk.report(None, [], [], path={str(tmp_path / 'p')!r})"
    )
    assert "ImportError: report draws with matplotlib" in done.stderr


# ---- what they share --------------------------------------------------------------


def test_each_display_draws_again_on_given_axes(clf, data, test, pictures):
    X, y = data.X[test], data.y[test]
    root, paths, names = pictures
    displays = [
        plotting.SeenUnseenCurveDisplay.from_estimator(clf, X, y),
        plotting.ErrorMatrixDisplay.from_estimator(clf, X, y),
        plotting.AttributeErrorDisplay.from_estimator(clf, X, y),
        plotting.WeightDisplay.from_estimator(clf),
        plotting.LossCurveDisplay.from_estimator(clf),
        plotting.PrototypeMapDisplay.from_estimator(clf, X, y),
        plotting.AnswerGridDisplay.from_predictions(
            names, names, paths=paths, root=root
        ),
        plotting.AttentionMapDisplay.from_predictions(
            np.full((2, 1, 4), 0.25),
            names=[["fur"], ["fin"]],
            paths=paths[:2],
            root=root,
        ),
    ]
    assert {type(display).__name__ for display in displays} == set(plotting.__all__)
    for display in displays:
        _, ax = plt.subplots()
        assert display.plot(ax=ax) is display
        assert display.ax_ is ax and display.figure_ is ax.figure
        ax.figure.canvas.draw()
        plt.close("all")


def test_from_predictions_of_scores_needs_no_estimator():
    scores = [[0.9, 0.5], [0.7, 0.6]]
    display = plotting.SeenUnseenCurveDisplay.from_predictions(
        [0, 1], scores, seen=[True, False]
    )
    expected = seen_unseen_curve([0, 1], scores, [True, False])
    assert display.curve.ausuc == expected.ausuc
    assert display.point_ is None
    assert display.line_.get_label() == "AUSUC 1.000"


@pytest.mark.parametrize("kind", ["ErrorMatrix", "AttributeError", "Weight"])
def test_a_figure_drawn_later_shows_what_it_was_given(kind):
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 5)
    S, predicted = rng.random((4, 3))[group], rng.random((20, 3))
    names = np.array(["a", "b", "c"])
    display = getattr(plotting, f"{kind}Display").from_predictions(
        S, predicted, classes=group, attribute_names=names
    )
    names[:] = "?"
    assert list(display.attribute_names) == ["a", "b", "c"]


def test_a_map_drawn_later_shows_what_it_was_given():
    rng = np.random.default_rng(0)
    classes, y = np.array(["a", "b", "c"]), np.array(["a", "b", "c"] * 4)
    display = plotting.PrototypeMapDisplay.from_predictions(
        y, rng.random((12, 3)), prototypes=rng.random((3, 3)), classes=classes
    )
    classes[:] = y[:] = "?"
    assert set(display.classes) == set(display.y_true) == {"a", "b", "c"}
