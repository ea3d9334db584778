"""examples/benchmark.py: no leak, no luck, the same table again."""

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.baselines import ESZSL, RidgePrototype
from rezsl_sk.datasets import make_zero_shot, save_xlsa17
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.metrics import harmonic_mean, mean_per_class_accuracy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(ROOT / "examples"))
    import benchmark

    yield benchmark
    sys.path.remove(str(ROOT / "examples"))
    del sys.modules["benchmark"]


@pytest.mark.parametrize(
    "script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name
)
def test_every_benchmark_starts(script, capsys, monkeypatch):
    """They run for minutes to hours, so nobody else would notice a lost name."""
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert "usage:" in capsys.readouterr().out


@pytest.fixture
def quick(benchmark, monkeypatch):
    """The benchmark with three methods that cost nothing."""

    def trained():
        return ZeroShotClassifier(
            ReZSLRegressor((), max_iter=1, batch_size=256, loss="mse")
        )

    methods = {
        "closed": benchmark.Method(ESZSL, {"feature_penalty": [0.1, 1.0, 10.0]}),
        "trained": benchmark.Method(
            trained, {"regressor__learning_rate_init": [1e-3, 1e-2]}
        ),
        "untuned": benchmark.Method(trained),
    }
    monkeypatch.setattr(benchmark, "METHODS", methods)
    return benchmark


@pytest.fixture(scope="module")
def made():
    return make_zero_shot(
        12, 4, samples_per_class=10, n_features=8, n_attributes=6, random_state=0
    )


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    save_xlsa17(
        root,
        "TINY",
        X=made.X,
        labels=made.labels,
        attributes=made.attributes,
        class_names=made.class_names,
        trainval=made.trainval,
        test_seen=made.test_seen,
        test_unseen=made.test_unseen,
    )
    return root


def command(root, out, *more):
    options = "--datasets TINY --seeds 2 --class-splits 2 --budget 2 --folds 2 --jobs 1"
    return [str(root), *options.split(), "--out", str(out), *map(str, more)]


def lines_of(out):
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def job(benchmark, data, split, method, out, seeds=1, budget=2, folds=2):
    return benchmark.Job(data, split, method, seeds, budget, folds, Path(out))


# ---- the whole of it ----------------------------------------------------------------


def test_two_runs_from_scratch_give_the_same_table(quick, root, tmp_path):
    for out in ("a", "b"):
        assert quick.main(command(root, tmp_path / out)) == 0
    first, second = ((tmp_path / out / "table.md").read_bytes() for out in "ab")
    assert first == second
    assert first.count(b"| trained |") == 4  # two kinds of split, two tables each


@pytest.mark.slow
def test_processes_change_nothing(root, tmp_path):
    """As a user runs it, with one and with two processes."""
    for jobs in (1, 2):
        more = ("--methods", "eszsl", "mse", "--class-splits", 1, "--jobs", jobs)
        script = ROOT / "examples" / "benchmark.py"
        arguments = command(root, tmp_path / str(jobs), *more)
        subprocess.run([sys.executable, "-W", "error", script, *arguments], check=True)
    one, two = ((tmp_path / jobs / "table.md").read_bytes() for jobs in "12")
    assert one == two


def test_results_have_a_line_for_each_fit(quick, root, tmp_path):
    quick.main(command(root, tmp_path))
    lines = lines_of(tmp_path)
    assert len(lines) == 3 * (1 + 2 + 2)  # a closed form has one seed
    assert [line["split"] for line in lines[-5:]] == ["official"] * 5
    assert {line["test_used_for_selection"] for line in lines} == {"False"}
    by_method = {line["method"]: line for line in lines}
    assert by_method["closed"]["configurations"] == "3"  # all of the grid
    assert by_method["trained"]["configurations"] == "2"
    assert by_method["untuned"]["params"] == "{}"
    assert by_method["untuned"]["search_score"] == ""
    assert by_method["closed"]["variation_unseen"] == ""
    assert float(by_method["trained"]["variation_unseen"]) > 0


def test_a_second_run_repeats_nothing(quick, root, tmp_path, monkeypatch):
    quick.main(command(root, tmp_path))
    before = (tmp_path / "table.md").read_bytes()

    def refuse(*args):
        raise AssertionError("done twice")

    monkeypatch.setattr(quick, "choose", refuse)
    monkeypatch.setattr(quick, "look", refuse)
    assert quick.main(command(root, tmp_path)) == 0
    assert (tmp_path / "table.md").read_bytes() == before


def test_an_interrupted_job_goes_on_where_it_was(quick, root, tmp_path, monkeypatch):
    arguments = command(root, tmp_path, "--methods", "trained")
    quick.main(arguments)
    before = (tmp_path / "table.md").read_bytes()
    lost = sorted(tmp_path.glob("runs/TINY/*/trained-*/seed-1.json"))
    assert len(lost) == 3
    lost[0].unlink()
    monkeypatch.setattr(quick, "choose", None)  # not called again
    looked, look = [], quick.look
    monkeypatch.setattr(
        quick, "look", lambda *args: looked.append(args[3]) or look(*args)
    )
    assert quick.main(arguments) == 0
    assert looked == [1]
    assert (tmp_path / "table.md").read_bytes() == before


def test_development_only_leaves_the_official_test_rows_alone(
    quick, root, made, tmp_path, monkeypatch
):
    given, give = [], quick.Rows.give

    def noted(self, purpose, rows):
        given.append(rows)
        return give(self, purpose, rows)

    monkeypatch.setattr(quick.Rows, "give", noted)
    quick.main(command(root, tmp_path, "--development-only"))
    assert set(np.concatenate(given)) <= set(made.trainval)
    assert "official" not in (tmp_path / "table.md").read_text()


def test_a_failure_is_told_and_costs_no_other_result(quick, root, tmp_path, capsys):
    quick.METHODS["broken"] = quick.Method(lambda: ESZSL(feature_penalty=-1.0))
    assert quick.main(command(root, tmp_path)) == 1
    assert "TINY, official, broken" in capsys.readouterr().err
    assert {line["method"] for line in lines_of(tmp_path)} == {
        "closed",
        "trained",
        "untuned",
    }


def test_reference_must_be_among_the_methods(quick, root, tmp_path, capsys):
    with pytest.raises(SystemExit):
        quick.main(
            command(root, tmp_path, "--methods", "closed", "--reference", "trained")
        )
    assert "not among --methods" in capsys.readouterr().err


# ---- selection ----------------------------------------------------------------------


def test_test_rows_in_the_search_are_noticed(quick, made, tmp_path):
    data = quick.load(None, "make_zero_shot", None)
    honest = quick.official_split(data)
    leaky = quick.Split(
        "official",
        np.append(honest.train, honest.test_unseen[0]),
        honest.test_seen,
        honest.test_unseen,
    )
    for split, leaks in ((honest, False), (leaky, True)):
        one = job(quick, data, split, "closed", tmp_path)
        rows = quick.Rows(data)
        assert quick.choose(one, rows)["test_used_for_selection"] is leaks


def test_table_names_the_methods_that_selected_on_test(quick, root, tmp_path):
    quick.main(command(root, tmp_path, "--class-splits", 0))
    assert "Test rows used for selection: none." in (
        (tmp_path / "table.md").read_text()
    )
    [choice] = tmp_path.glob("runs/TINY/official/closed-*/choice.json")
    told = json.loads(choice.read_text()) | {"test_used_for_selection": True}
    choice.write_text(json.dumps(told))
    quick.main(command(root, tmp_path, "--class-splits", 0))
    assert "Test rows used for selection: closed." in (
        (tmp_path / "table.md").read_text()
    )


def test_configurations_begin_with_the_default_and_keep_the_budget(benchmark):
    grid = {"feature_penalty": [0.1, 1.0], "attribute_scaling": ["l2", "center"]}
    default = {"feature_penalty": 1.0, "attribute_scaling": "l2"}
    few = benchmark.configurations(ESZSL(), grid, 3)
    all_of_it = benchmark.configurations(ESZSL(), grid, 100)
    assert few[0] == all_of_it[0] == default
    assert (len(few), len(all_of_it)) == (3, 4)
    outside = benchmark.configurations(ESZSL(feature_penalty=5.0), grid, 100)
    assert len(outside) == 5 and outside[0]["feature_penalty"] == 5.0
    assert benchmark.configurations(ESZSL(), grid, 1) == [default]


@pytest.mark.parametrize(
    "name",
    "eszsl sae ridge dap ale dem cn mse-attributes remse-attributes features-only "
    "mse remse mse-default remse-default".split(),
)
def test_grids_hold_values_that_the_method_takes(benchmark, name):
    method = benchmark.METHODS[name]
    estimator = method.make()
    assert (benchmark.seed_parameter(estimator) is None) == (
        name in ("eszsl", "sae", "ridge", "dap")
    )
    for parameter, values in method.grid.items():
        assert len(set(values)) == len(values)
        for value in values:
            estimator.set_params(**{parameter: value})
            estimator._validate_params()
            if hasattr(estimator, "regressor"):
                estimator.regressor._validate_params()


# ---- splits and data ----------------------------------------------------------------


def test_development_splits_use_training_rows_and_hide_classes(benchmark):
    data = benchmark.load(None, "make_zero_shot", None)
    split = benchmark.development_split(data, 3)
    parts = (split.train, split.test_seen, split.test_unseen)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(parts)), np.sort(data.trainval)
    )
    train, seen, unseen = (np.unique(data.labels[rows]) for rows in parts)
    np.testing.assert_array_equal(train, seen)
    assert len(unseen) == 8 and not np.isin(unseen, train).any()  # of 40
    again, other = (benchmark.development_split(data, n) for n in (3, 4))
    assert split.sha256 == again.sha256 != other.sha256


def test_thinning_takes_training_rows_alone(benchmark):
    data = benchmark.load(None, "make_zero_shot", None)
    full, thin = (benchmark.development_split(data, 0, n) for n in (None, 5))
    assert np.bincount(data.labels[thin.train]).max() == 5
    assert set(thin.train) < set(full.train)
    np.testing.assert_array_equal(thin.test, full.test)


def test_what_matters_is_in_the_key(quick, tmp_path):
    data = quick.load(None, "make_zero_shot", None)
    other = quick.load(None, "make_zero_shot:0.5", None)
    split = quick.development_split(data, 0)
    folder = job(quick, data, split, "trained", tmp_path).folder
    for changed in (
        job(quick, other, split, "trained", tmp_path),
        job(quick, data, quick.development_split(data, 0, 5), "trained", tmp_path),
        job(quick, data, split, "trained", tmp_path, folds=3),
        job(quick, data, split, "trained", tmp_path, budget=1),
        job(quick, data, split, "untuned", tmp_path),
    ):
        assert changed.folder.name != folder.name
    # More seeds are more of the same.
    assert job(quick, data, split, "trained", tmp_path, seeds=9).folder == folder


def test_another_default_of_the_method_is_another_key(quick, tmp_path):
    data = quick.load(None, "make_zero_shot", None)
    split = quick.development_split(data, 0)
    before = job(quick, data, split, "closed", tmp_path).folder
    quick.METHODS["closed"] = quick.Method(
        lambda: ESZSL(attribute_penalty=0.2), quick.METHODS["closed"].grid
    )
    assert job(quick, data, split, "closed", tmp_path).folder != before


def test_cache_without_splits_takes_unseen_classes_from_a_file(
    benchmark, made, tmp_path
):
    path, unseen = tmp_path / "made.h5", tmp_path / "classes.csv"
    FeatureCache.from_arrays(
        path,
        made.X.astype(np.float32),
        made.y,
        class_attributes=(made.class_names, made.attributes),
    ).close()
    with pytest.raises(SystemExit, match="--unseen"):
        benchmark.load(None, str(path), None)
    unseen.write_text(
        "class,split\n"
        + "".join(
            f"{name},{'unseen' if name.startswith('unseen') else 'seen'}\n"
            for name in made.class_names
        )
    )
    data = benchmark.load(None, str(path), unseen)
    assert data.name == "made"
    assert set(data.test_unseen) == set(made.test_unseen)
    seen = np.concatenate([data.trainval, data.test_seen])
    assert sorted(seen) == sorted([*made.trainval, *made.test_seen])
    held = np.bincount(data.labels[data.test_seen], minlength=16)
    assert sorted(held) == [0] * 4 + [2] * 12  # a fifth of 10


# ---- figures ------------------------------------------------------------------------


def test_figures_are_those_of_the_classifiers_own_answers(benchmark, tmp_path):
    data = benchmark.load(None, "make_zero_shot", None)
    split = benchmark.development_split(data, 0)
    one = job(benchmark, data, split, "ridge", tmp_path)
    chosen = {"params": {"feature_penalty": 0.1}, "seen_penalty": 0.07}
    figures = benchmark.look(one, benchmark.Rows(data), chosen, 0)

    classes = np.unique(data.labels[data.trainval])  # the official unseen: unknown
    table = (data.class_names[classes], data.attributes[classes])
    y = data.class_names[data.labels]
    model = RidgePrototype(table, seen_penalty=0.07, feature_penalty=0.1)
    model.fit(data.X[split.train], y[split.train])
    U, S = (
        mean_per_class_accuracy(y[rows], model.predict(data.X[rows]))
        for rows in (split.test_unseen, split.test_seen)
    )
    model.set_params(candidates="unseen").fit(data.X[split.train], y[split.train])
    T1 = mean_per_class_accuracy(
        y[split.test_unseen], model.predict(data.X[split.test_unseen])
    )
    assert figures["T1"] == pytest.approx(T1)
    assert figures["U"] == pytest.approx(U)
    assert figures["S"] == pytest.approx(S)
    assert figures["H"] == pytest.approx(harmonic_mean(S, U))
    assert figures["oracle_H"] >= figures["H"]


def test_variation_is_that_of_errors_in_standard_deviations(quick, tmp_path):
    data = quick.load(None, "make_zero_shot", None)
    split = quick.development_split(data, 0)
    one = job(quick, data, split, "trained", tmp_path)
    y = data.class_names[data.labels]
    model = one.with_table().set_params(**one.seed(0))
    model.fit(data.X[split.train], y[split.train])
    found = quick.imbalance(model, one, data.X[split.test])

    scale = data.attributes[np.unique(data.labels[split.train])].std(axis=0)
    varying = scale > 0
    rows = split.test_unseen
    error = model.regressor_.predict(data.X[rows]) - data.attributes[data.labels[rows]]
    squared = np.square(error[:, varying] / scale[varying])
    of_class = np.array(
        [squared[data.labels[rows] == k].mean(0) for k in np.unique(data.labels[rows])]
    )
    of_attribute = of_class.mean(axis=0)
    expected = of_attribute.std() / of_attribute.mean()
    assert found["variation_unseen"] == pytest.approx(expected, rel=1e-4)
    assert found["variation_seen"] != found["variation_unseen"]


def test_interval_covers_splits_and_seeds(benchmark):
    rng = np.random.default_rng(1)
    splits, seeds = rng.normal(size=(30, 1)), 0.5 * rng.normal(size=(30, 10))
    mean, low, high = benchmark.paired_difference(1 + splits + seeds, np.zeros((30, 1)))
    assert mean == pytest.approx((1 + splits + seeds).mean())
    # Splits drawn with replacement, and seeds within them.
    within = (1 + splits + seeds).mean(axis=1)
    variance = within.var() / 30 + seeds.var(axis=1).mean() / 300
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)


def test_difference_is_paired(benchmark):
    """What splits and seeds have in common drops out."""
    common = np.random.default_rng(0).normal(size=(5, 4))
    found = benchmark.paired_difference(common + 0.1, common)
    assert found == pytest.approx((0.1, 0.1, 0.1))


def test_one_seed_stands_beside_each_of_the_other(benchmark):
    closed, trained = np.array([[1.0], [2.0]]), np.array([[0.0, 1.0], [1.0, 2.0]])
    assert benchmark.paired_difference(closed, trained)[0] == pytest.approx(0.5)
