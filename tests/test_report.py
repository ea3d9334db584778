"""The report: its numbers are the measured ones, and no name can break the page."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rezsl_sk
from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.decoding import prototype_scores
from rezsl_sk.metrics import gzsl_report, mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
_report = pytest.importorskip("rezsl_sk._report")

EVIL = '</p><script>alert("x")</script> & $x$ 熊猫'
ATTRIBUTES = [f"has_tail::<i>{j}</i>" for j in range(8)]


@pytest.fixture(scope="module")
def data():
    data = make_zero_shot(
        9, 4, samples_per_class=12, n_features=16, n_attributes=8, random_state=0
    )
    names = data.class_names.astype(object)
    names[[0, -1]] = f"seen {EVIL}", f"unseen {EVIL}"
    data.class_names = names.astype(str)
    data.y = data.class_names[data.labels]
    return data


@pytest.fixture(scope="module")
def test(data):
    return np.concatenate([data.test_seen, data.test_unseen])


def classifier(data, scaling="standard", **parameters):
    table = pd.DataFrame(data.attributes, index=data.class_names, columns=ATTRIBUTES)
    regressor = ReZSLRegressor(
        attribute_scaling=scaling, max_iter=4, random_state=0, device="cpu"
    )
    return ZeroShotClassifier(regressor, class_attributes=table, **parameters)


@pytest.fixture(scope="module")
def clf(data):
    model = classifier(data, seen_penalty=0.1)
    return model.fit(data.X[data.trainval], data.y[data.trainval])


class Page(HTMLParser):
    """Tags, texts and the numbers on the cards of a page."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.texts = [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    @property
    def scores(self):
        found = re.findall(r"<b>(\w+)</b><strong>([\d.]+)</strong>", self.source)
        return {name: float(value) for name, value in found}

    @property
    def headings(self):
        return re.findall(r"<h2>(.*?)</h2>", self.source)

    @property
    def images(self):
        return [rest["src"] for tag, rest in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def page(clf, data, test, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    arguments = {"path": path, "title": EVIL}
    assert rezsl_sk.report(clf, data.X[test], data.y[test], **arguments) == path
    return Page(path)


# ---- what it says ------------------------------------------------------------------


def test_scores_are_the_measured_ones(page, clf, data, test):
    X, y = data.X[test], data.y[test]
    seen = np.isin(clf.candidates_, clf.seen_classes_)
    scores = clf.decision_function(X) + 0.1 * seen
    column = [clf.candidates_.tolist().index(name) for name in y]
    expected = gzsl_report(column, scores, seen, penalty=0.1)
    unseen = ~np.isin(y, clf.seen_classes_)
    named = clf.regressor_.predict(
        X[unseen],
        prototypes=data.attributes[data.unseen_classes],
        classes=data.class_names[data.unseen_classes],
    )
    assert page.scores == {
        "T1": pytest.approx(mean_per_class_accuracy(y[unseen], named), abs=6e-4),
        "U": pytest.approx(expected.U, abs=6e-4),
        "S": pytest.approx(expected.S, abs=6e-4),
        "H": pytest.approx(expected.H, abs=6e-4),
        "AUSUC": pytest.approx(expected.AUSUC, abs=6e-4),
    }
    assert f"Oracle H {expected.oracle_H:.3f}" in page.text
    assert "guessing gives 0.250" in page.text


def test_the_hardest_class_is_told_with_its_confusion(page, clf, data, test):
    y, answers = data.y[test], clf.predict(data.X[test])
    unseen = data.class_names[data.unseen_classes]
    right = {name: (answers[y == name] == name).mean() for name in unseen}
    hardest = min(sorted(right), key=right.get)
    wrong = answers[(y == hardest) & (answers != hardest)]
    names, counts = np.unique(wrong, return_counts=True)
    other = names[counts.argmax()]
    plain = " ".join(f"{hardest} is taken for {other} in {counts.max()} of".split())
    assert plain in page.text
    # The attributes it is told apart by, in units of their spread over seen classes.
    spread = data.attributes[data.seen_classes].std(axis=0)
    number = {name: k for k, name in enumerate(data.class_names)}
    gap = data.attributes[number[hardest]] - data.attributes[number[other]]
    most = ATTRIBUTES[np.argmax(np.abs(gap) / spread)]
    story = page.text[page.text.index(plain) :]
    assert re.search(r"They differ in: (.*?)[,.;] ", story).group(1) == most


def test_the_hardest_come_first(clf, data, test):
    facts = _report._Facts.of(clf, clf, data.X[test], data.y[test], None)
    told = re.findall(r"<article><p><b>(.*?)</b>", _report._hardest(facts))
    accuracy = {
        _report._text(name): value
        for name, value in zip(facts.classes, facts.accuracy, strict=True)
    }
    values = [accuracy[name] for name in told]
    assert len(values) == 4 + 4 and len(set(values[:4])) > 1
    assert values[:4] == sorted(values[:4]) and values[4:] == sorted(values[4:])
    seen = [accuracy[_report._text(name)] for name in clf.seen_classes_]
    assert values[4:] == sorted(seen)[:4]


def test_high_errors_are_those_of_the_highest_quarter(clf, data, test):
    facts = _report._Facts.of(clf, clf, data.X[test], data.y[test], None)
    errors = facts.attribute_errors()
    rows = ~np.isin(data.y[test], clf.seen_classes_)
    predicted = clf.regressor_.predict(data.X[test][rows])
    target = data.attributes[data.labels[test]][rows]
    squared = ((predicted - target) / clf.regressor_.attribute_scale_) ** 2
    by_class = pd.DataFrame(squared).groupby(data.y[test][rows]).mean()
    np.testing.assert_allclose(errors, by_class.mean(), rtol=1e-5)


@pytest.mark.parametrize("scaling", ["standard", "center", None])
def test_the_mean_prediction_is_in_the_tables_units(data, test, scaling):
    model = classifier(data, scaling)
    model.fit(data.X[data.trainval], data.y[data.trainval])
    facts = _report._Facts.of(model, model, data.X[test], data.y[test], None)
    rows = data.y[test] == data.class_names[-2]
    expected = model.regressor_.predict(data.X[test][rows]).mean(axis=0)
    mean = _report._mean_prediction(facts, rows)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)


def test_equal_descriptions_and_idle_attributes_are_told(data, test, tmp_path):
    table = data.attributes.copy()
    table[-1], table[:, 2] = table[-2], 0.5
    model = ZeroShotClassifier(
        ReZSLRegressor(max_iter=1, random_state=0, device="cpu"),
        class_attributes=(data.class_names, table),
    )
    with pytest.warns(UserWarning, match="cannot be told apart"):
        model.fit(data.X[data.trainval], data.y[data.trainval])
    path = tmp_path / "page.html"
    rezsl_sk.report(model, data.X[test], data.y[test], path=path)
    text = Page(path).text
    assert "1 attributes have one value over all seen classes" in text
    assert "attribute 2." in text
    assert "2 classes share their description" in text


def test_held_out_classes_are_told(data, test, tmp_path):
    model = classifier(data).set_params(regressor__early_stopping=True)
    model.fit(data.X[data.trainval], data.y[data.trainval])
    path = tmp_path / "page.html"
    rezsl_sk.report(model, data.X[test], data.y[test], path=path)
    held = len(model.regressor_.validation_classes_)
    assert f"Early stopping held out {held} of the seen classes" in Page(path).text


def test_provenance_names_data_parameters_and_versions(page, clf, data, test):
    X = np.ascontiguousarray(data.X[test])
    assert hashlib.sha256(X.tobytes()).hexdigest() in page.text
    assert str(X.shape) in page.text
    assert "regressor__hidden_layer_sizes" in page.text
    assert "<9 classes" not in page.text and "<13 classes, 8 attributes>" in page.text
    assert rezsl_sk.__version__ in page.text and "scikit-learn" in page.text


def test_fingerprints_know_values_not_memory():
    values = np.arange(6.0).reshape(2, 3)
    same = [values, np.asfortranarray(values), values.astype(">f8"), values.tolist()]
    assert len({_report.fingerprint(array)[2] for array in same}) == 1
    other = [values, values + 1e-9, values.astype(np.float32), values.astype(str)]
    assert len({_report.fingerprint(array)[2] for array in other}) == 4
    wide = np.array(["ab", "c"], dtype="U9"), np.array(["ab", "c"], dtype=object)
    assert len({_report.fingerprint(array) for array in wide}) == 1
    assert _report.fingerprint(["a,b"])[2] != _report.fingerprint(["a", "b"])[2]


# ---- one page, by itself -----------------------------------------------------------


def test_no_name_gets_into_the_markup(page):
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and "i" in tags
    assert page.source.count("<i>") == 1  # our own
    assert EVIL in "".join(page.texts)
    assert "has_tail::<i>0</i>" in "".join(page.texts)


def test_the_page_loads_nothing(page):
    policy = [rest for tag, rest in page.tags if tag == "meta"]
    assert any("default-src 'none'" in rest.get("content", "") for rest in policy)
    assert any(rest.get("name") == "viewport" for rest in policy)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    assert "url(" not in page.source and "@import" not in page.source
    assert len(page.images) == 8
    for image in page.images:
        kind, data = image.split(";base64,")
        assert kind == "data:image/svg+xml"
        picture = base64.b64decode(data).decode()
        assert "<svg" in picture and "<script" not in picture
        for target in re.findall(r'href="([^"]*)"', picture):
            assert target.startswith(("#", "data:"))


def test_every_figure_has_a_text_for_those_who_do_not_see_it(page):
    texts = [rest["alt"] for tag, rest in page.tags if tag == "img"]
    assert all(len(text) > 40 for text in texts)


def test_figures_neither_take_nor_leave_a_style(clf, data, test, tmp_path, page):
    plt = pytest.importorskip("matplotlib.pyplot")
    with plt.rc_context({"axes.facecolor": "black", "font.size": 3}):
        before = dict(plt.rcParams)
        open_figures = plt.get_fignums()
        path = tmp_path / "page.html"
        rezsl_sk.report(clf, data.X[test], data.y[test], path=path)
        assert dict(plt.rcParams) == before
        assert plt.get_fignums() == open_figures
    assert Page(path).images == page.images


def test_pictures_go_into_the_page(clf, data, test, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.imsave(tmp_path / "one.png", np.zeros((4, 4, 3)))
    path = tmp_path / "page.html"
    rezsl_sk.report(
        clf,
        data.X[test],
        data.y[test],
        path=path,
        picture_paths=["one.png"] * len(test),
        picture_root=tmp_path,
    )
    page = Page(path)
    assert page.headings[-3] == "Pictures"
    assert page.images[-1].startswith("data:image/png;base64,")


# ---- other estimators, other samples -----------------------------------------------


def test_pipelines_and_searches_are_looked_through(data, test, tmp_path):
    pipeline = make_pipeline(StandardScaler(), classifier(data))
    step = "zeroshotclassifier__regressor__loss"
    search = GridSearchCV(
        pipeline, {step: ["mse"]}, cv=ClassKFold(2), scoring=zero_shot_scorer
    ).fit(data.X[data.trainval], data.y[data.trainval])
    X, y = data.X[test], data.y[test]
    pages = []
    for name, model in [("a", search), ("b", search.best_estimator_)]:
        path = tmp_path / f"{name}.html"
        pages.append(Page(rezsl_sk.report(model, X, y, path=path)))
    assert pages[0].scores == pages[1].scores
    assert "What ReMSE weights up" not in pages[0].headings  # it is MSE


def test_column_names_are_kept_to(data, test, tmp_path):
    X = pd.DataFrame(data.X).add_prefix("feature ")
    train, y = data.trainval, data.y
    path = tmp_path / "page.html"
    plain = classifier(data).fit(X.iloc[train], y[train])
    scaled = make_pipeline(StandardScaler(), classifier(data))
    scaled.set_output(transform="pandas").fit(X.iloc[train], y[train])
    for model in (plain, scaled):
        # Warnings, such as one of missing column names, are errors here.
        rezsl_sk.report(model, X.iloc[test], y[test], path=path)
    regressor = ReZSLRegressor(max_iter=1, random_state=0, device="cpu")
    S = data.attributes[data.labels]
    regressor.fit(X.iloc[train], S[train])
    _report.plotting.ErrorMatrixDisplay.from_estimator(regressor, X, S)
    _report.plotting.SeenUnseenCurveDisplay.from_estimator(regressor, X, S)


def test_unseen_samples_alone_give_no_trade_off(clf, data, tmp_path):
    rows = data.test_unseen
    path = tmp_path / "page.html"
    rezsl_sk.report(clf, data.X[rows], data.y[rows], path=path)
    page = Page(path)
    U = mean_per_class_accuracy(data.y[rows], clf.predict(data.X[rows]))
    assert page.scores["U"] == pytest.approx(U, abs=6e-4)
    assert set(page.scores) == {"T1", "U"}
    assert "samples of unseen classes only" in page.text
    assert "Seen against unseen" not in page.headings


def test_seen_samples_alone_give_S(clf, data, tmp_path):
    rows = data.test_seen
    path = tmp_path / "page.html"
    rezsl_sk.report(clf, data.X[rows], data.y[rows], path=path)
    S = mean_per_class_accuracy(data.y[rows], clf.predict(data.X[rows]))
    assert Page(path).scores == {"S": pytest.approx(S, abs=6e-4)}


def test_unseen_classes_without_samples_compete_among_all_only(
    clf, data, test, tmp_path
):
    left_out = data.class_names[-2]
    rows = test[data.y[test] != left_out]
    path = tmp_path / "page.html"
    page = Page(rezsl_sk.report(clf, data.X[rows], data.y[rows], path=path))
    unseen = rows[~np.isin(data.y[rows], clf.seen_classes_)]
    T1 = zero_shot_scorer(clf, data.X[unseen], data.y[unseen])
    U = mean_per_class_accuracy(data.y[unseen], clf.predict(data.X[unseen]))
    assert page.scores["T1"] == pytest.approx(T1, abs=6e-4)
    assert page.scores["U"] == pytest.approx(U, abs=6e-4)
    assert "Among the 3 unseen classes alone" in page.text
    assert "1 more unseen classes have no samples here" in page.text


def test_a_classifier_of_unseen_classes_is_said_to_be_one(clf, data, test, tmp_path):
    model = classifier(data, seen_penalty=0.1, candidates="unseen")
    model.fit(data.X[data.trainval], data.y[data.trainval])
    X, y = data.X[test], data.y[test]
    path = tmp_path / "page.html"
    page = Page(rezsl_sk.report(model, X, y, path=path))
    assert "answers with unseen classes only" in page.text
    other = Page(rezsl_sk.report(clf, X, y, path=path))
    assert page.scores == other.scores
    # Seen classes can never be its answers, so they are not called hard.
    assert "<h3>Seen classes</h3>" not in page.source


class Plain(BaseEstimator):
    """A zero-shot classifier that predicts no attributes."""

    def __init__(self, table=None):
        self.table = table

    def fit(self, X, y):
        self.seen_classes_ = np.unique(y)
        self.class_names_, self.class_attributes_ = self.table
        self.classes_ = np.sort(self.class_names_)
        self.seen_penalty_ = 0.0
        self.map_ = np.random.default_rng(0).normal(size=(X.shape[1], 8))
        return self

    def class_scores(self, X, names):
        rows = [self.class_names_.tolist().index(name) for name in names]
        return prototype_scores(X @ self.map_, self.class_attributes_[rows])

    def predict(self, X):
        scores = self.class_scores(X, self.classes_)
        return self.classes_[scores.argmax(axis=1)]


def test_a_classifier_without_a_regressor_is_reported_without_errors(
    data, test, tmp_path
):
    model = Plain((data.class_names, data.attributes))
    model.fit(data.X[data.trainval], data.y[data.trainval])
    path = tmp_path / "page.html"
    page = Page(rezsl_sk.report(model, data.X[test], data.y[test], path=path))
    assert set(page.scores) == {"T1", "U", "S", "H", "AUSUC"}
    assert "Plain predicts no attributes" in page.text
    assert "They differ in: attribute" in page.text and "high error" not in page.text
    assert len(page.images) == 1


def test_large_tables_are_told_of_in_part(tmp_path):
    data = make_zero_shot(
        100, 30, samples_per_class=3, n_features=8, n_attributes=60, random_state=0
    )
    model = ZeroShotClassifier(
        ReZSLRegressor(max_iter=1, random_state=0, device="cpu"),
        class_attributes=(data.class_names, data.attributes),
    ).fit(data.X[data.trainval], data.y[data.trainval])
    path = tmp_path / "page.html"
    page = Page(rezsl_sk.report(model, data.X, data.y, path=path))
    assert page.source.count("<article>") == sum(_report.N_HARDEST.values())
    assert "130 classes, the hardest first" in page.text
    assert len(page.source) < 3_000_000


# ---- where it cannot be written ----------------------------------------------------


def test_a_missing_folder_is_refused_before_anything_is_computed(tmp_path):
    path = tmp_path / "absent" / "page.html"
    with pytest.raises(FileNotFoundError, match="no folder .*absent to write the page"):
        rezsl_sk.report(None, None, None, path=path)
    with pytest.raises(IsADirectoryError, match=r"is a folder; give the page a name"):
        rezsl_sk.report(None, None, None, path=tmp_path)


def test_what_is_no_zero_shot_classifier_is_refused(clf, data, test, tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match="got ReZSLRegressor. Wrap a regressor in"):
        rezsl_sk.report(clf.regressor_, data.X[test], data.y[test], path=path)
    with pytest.raises(ValueError, match="X has 3 rows and y has 2 labels"):
        rezsl_sk.report(clf, data.X[:3], data.y[:2], path=path)
    with pytest.raises(ValueError, match=r"does not know: \['yeti'\]"):
        rezsl_sk.report(clf, data.X[:1], ["yeti"], path=path)
    assert not list(tmp_path.iterdir())


def test_an_older_page_survives_a_failure(monkeypatch, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        _report._write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# ---- in a browser ------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it_without_anything_cut_off(page, width, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no chromium here: the report is not looked at in a browser")
    (tmp_path / "page.html").write_text(page.source, encoding="utf-8")
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-sync"),
            *("--disable-component-update", "--hide-scrollbars"),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},9000",
            f"--screenshot={shot}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert shot.is_file(), done.stderr
    pixels = (255 * matplotlib.image.imread(shot)[..., :3]).round().astype(int)
    assert pixels.shape[:2] == (9000, width)
    # The margins are of one colour: nothing is wider than the window.
    for margin in (pixels[:, :10], pixels[:, -10:]):
        assert len(np.unique(margin.reshape(-1, 3), axis=0)) == 1
    # Figures are shown: nothing else on the page is of this orange.
    assert (np.abs(pixels - [213, 94, 0]).max(axis=2) <= 2).sum() > 100


def test_a_classifier_that_is_not_fitted(data, test, tmp_path):
    clf = ZeroShotClassifier(class_attributes=(data.class_names, data.attributes))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        rezsl_sk.report(clf, data.X[test], data.y[test], path=tmp_path / "page.html")
