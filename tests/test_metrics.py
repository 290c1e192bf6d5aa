"""Measures of faithfulness: against hand-computed cases, and on a model whose evidence is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import InputError, OptionError, TargetError
from portable_cam.export.passes.normalized import normalized
from portable_cam.image.baselines import as_input, baseline, gaussian_blur, mix
from portable_cam.metrics.compare import compare
from portable_cam.metrics.concentration import complexity, sparsity
from portable_cam.metrics.curves import deletion, insertion
from portable_cam.metrics.fidelity import mu_fidelity
from portable_cam.metrics.localization import energy, grown, pointing
from portable_cam.metrics.masking import average_drop, increase
from portable_cam.metrics.metric import Case, Settings
from portable_cam.metrics.mosaic import grid_pointing, mosaic
from portable_cam.metrics.randomize import layers_with_weights, randomized
from portable_cam.metrics.ranking import average_ranks, rank, rank_correlation, tied
from portable_cam.metrics.references import REFERENCES
from portable_cam.metrics.registry import METRICS, check_metrics
from portable_cam.metrics.road import impute, road
from portable_cam.metrics.statistics import fewest_images, holm, paired_test, summarize

random = np.random.default_rng(5)
SIZE = 8
#: Where the model of these tests looks.
PATCH = (slice(1, 4), slice(2, 5))


def linear_case(weights: np.ndarray, x: np.ndarray, **given: Any) -> Case:
    """Whose score is the sum of weights times pixels: what each pixel adds is known."""
    return Case(
        index=0,
        x=x[None, None],
        target=0,
        channel_axis=1,
        score=lambda images: (images[:, 0] * weights).sum(axis=(1, 2)),
        explain=lambda *_: {},
        **given,
    )


def test_curves_of_a_linear_model() -> None:
    """Four pixels that add 4, 3, 2 and 1 are taken away one by one, the best first: 10, 6, 3, 1, 0."""
    case = linear_case(np.ones((2, 2)), np.array([[4.0, 1], [2, 3]]), baseline="zero", settings=Settings(steps=4))
    heat = np.array([[1.0, 0], [0.4, 0.8]])
    found = deletion.measure(case, "m", heat)
    assert found.curve is not None
    assert found.curve[:, 1].tolist() == [10, 6, 3, 1, 0]
    assert found.value == pytest.approx(np.trapezoid([10, 6, 3, 1, 0], dx=0.25))
    back = insertion.measure(case, "m", heat)
    assert back.curve is not None
    assert back.curve[:, 1].tolist() == [0, 4, 7, 9, 10]
    # as the reference implementation of RISE sums it
    scores = found.curve[:, 1]
    assert found.value == pytest.approx((scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1))


@pytest.mark.parametrize("name", ["blur", "mean", "zero"])
def test_deleting_everything_leaves_the_baseline(name: str) -> None:
    x, weights = random.random((SIZE, SIZE)), random.standard_normal((SIZE, SIZE))
    case = linear_case(weights, x, baseline=name)
    heat = random.random((SIZE, SIZE))
    blank = baseline(name, x[None, None], 1)
    for metric, at in ((deletion, -1), (insertion, 0)):
        curve = metric.measure(case, "m", heat).curve
        assert curve is not None
        assert curve[at, 1] == pytest.approx((blank[0, 0] * weights).sum())
        assert curve[-1 - at, 1] == pytest.approx((x * weights).sum())


def test_baselines() -> None:
    x = random.random((1, 3, 9, 12)).astype(np.float32)
    assert baseline("mean", x).dtype == np.float32
    np.testing.assert_allclose(baseline("mean", x)[0, :, 2, 3], x.mean(axis=(2, 3))[0], rtol=1e-6)
    np.testing.assert_allclose(baseline("blur", x.transpose(0, 2, 3, 1), 3).transpose(0, 3, 1, 2), baseline("blur", x))
    whole = random.integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    assert (baseline("zero", whole, zero=128) == 128).all()
    assert as_input(np.array([-3.0, 2.6, 300]), np.dtype(np.uint8)).tolist() == [0, 3, 255]
    half = mix(whole, np.zeros_like(whole), np.full((1, 4, 4), 0.5))
    np.testing.assert_array_equal(half, np.rint(whole / 2))
    with pytest.raises(OptionError, match="blur, mean, zero"):
        baseline("grey", x)


def test_blur_is_the_usual_gaussian() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = random.random((1, 2, 13, 9))
    expected = ndimage.gaussian_filter(x, (0, 0, 2, 2), mode="reflect", truncate=3)
    np.testing.assert_allclose(gaussian_blur(x, 2, (2, 3)), expected, atol=1e-12)


def test_ranks_exist_where_percentiles_do_not() -> None:
    """Of a map with 63 % zeros each tenth of the pixels can still be taken away, in an order that the seed fixes."""
    heat = np.zeros((10, 10))
    heat.flat[:37] = np.linspace(1, 0.1, 37)
    ranks = rank(heat, np.random.default_rng(1))
    assert sorted(ranks.flat) == list(range(100))
    assert ranks.flat[:37].tolist() == list(range(37))
    assert tied(heat) == 0.63
    again, other = (rank(heat, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(ranks, again)
    assert (ranks != other).any()
    assert not (np.diff(ranks.flat[37:]) > 0).all()  # not by position
    # what the percentile rule keeps of this map, most relevant removed first: nothing, six times out of nine
    kept = [(heat < np.percentile(heat, share)).sum() for share in range(10, 100, 10)]
    assert kept[:6] == [0] * 6


def test_rank_correlation_is_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = random.integers(0, 6, (5, 7)).astype(float), random.random((5, 7))
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    np.testing.assert_allclose(average_ranks(a), stats.rankdata(a))
    assert np.isnan(rank_correlation(a, np.ones_like(a)))


def test_masking() -> None:
    """Probability 0.8, and 0.2 of it left behind the map; then one that grows."""
    x = np.full((2, 2), 0.2)
    case = linear_case(np.ones((2, 2)), x, baseline="zero")
    assert average_drop.measure(case, "a", np.array([[1.0, 0], [0, 0]])).value == pytest.approx(0.75)
    assert average_drop.measure(case, "even", np.ones((2, 2))).value == 0
    assert increase.measure(case, "a", np.array([[1.0, 0], [0, 0]])).value == 0
    against = linear_case(np.array([[3.0, -1], [0, 0]]), x, baseline="zero")
    assert increase.measure(against, "b", np.array([[1.0, 0], [0, 0]])).value == 1
    assert average_drop.measure(against, "b", np.array([[1.0, 0], [0, 0]])).value == 0


def test_concentration() -> None:
    case = linear_case(np.ones((2, 2)), np.ones((2, 2)))
    even, one = np.ones((2, 2)), np.array([[0.0, 0], [0, 1]])
    assert sparsity.measure(case, "", even).value == pytest.approx(0)
    assert sparsity.measure(case, "", one).value == pytest.approx(0.75)  # 1 - 1 / n
    assert sparsity.measure(case, "", np.array([[1.0, 2], [3, 4]])).value == pytest.approx(0.25)
    assert complexity.measure(case, "", even).value == pytest.approx(np.log(4))
    assert complexity.measure(case, "", one).value == 0
    assert np.isnan(complexity.measure(case, "", np.zeros((2, 2))).value)


def test_localization() -> None:
    region = np.zeros((40, 40), bool)
    region[10:20, 10:20] = True
    heat = np.zeros((40, 40))
    heat[12, 12], heat[30, 30] = 1, 0.5
    case = linear_case(np.ones((40, 40)), np.ones((40, 40)), region=region, settings=Settings(tolerance=3))
    assert energy.measure(case, "", heat).value == pytest.approx(1 / 1.5)
    assert energy.measure(case, "", np.ones((40, 40))).value == pytest.approx(100 / 1600)
    assert pointing.measure(case, "", heat).value == 1
    heat[22, 15] = 1  # three pixels below
    assert pointing.measure(case, "", heat).value == 1
    heat[23, 15] = 1  # four
    assert pointing.measure(case, "", heat).value == pytest.approx(2 / 3)
    ring = region.copy()
    ring[14, 14] = False
    assert grown(ring, 3)[grown(region, 3)].all()


def test_mu_fidelity_of_a_linear_model() -> None:
    """The map that is what each pixel adds ranks all parts as the score does; its negative the other way round."""
    x, weights = random.random((9, 9)), random.standard_normal((9, 9))
    case = linear_case(weights, x, baseline="zero")
    assert mu_fidelity.measure(case, "", weights * x).value == pytest.approx(1)
    assert mu_fidelity.measure(case, "", -weights * x).value == pytest.approx(-1)
    assert abs(mu_fidelity.measure(case, "", random.random((9, 9))).value) < 0.5
    assert np.isnan(mu_fidelity.measure(case, "", np.zeros((9, 9))).value)


def test_mosaic() -> None:
    images = [np.full((1, 2, 5, 7), value, np.float32) for value in (1, 2, 3, 4)]
    found, region = mosaic(images, 1, 3)
    assert found.shape == (1, 2, 5, 7)
    assert [found[0, 1, r, c] for r, c in ((0, 0), (0, 6), (4, 0), (4, 6))] == [2, 3, 4, 1]
    assert region.sum() == 3 * 4
    assert region[4, 6]
    ramp = [np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)] * 4
    last = mosaic(ramp, 3, 0)[0]
    assert last.dtype == np.uint8
    np.testing.assert_array_equal(
        last[0, :4, :4, 0], np.rint(ramp[0][0, :, :, 0].reshape(4, 2, 4, 2).mean(axis=(1, 3)))
    )


def test_grid_pointing() -> None:
    """Four classes, each a channel that its images have: a map of the channel lies in the cell of its class."""
    images = np.eye(4, dtype=np.float32)[:, :, None, None] * np.ones((1, 1, 8, 8), np.float32)
    case = Case(0, images[:1], 0, 1, lambda _: np.zeros(1), lambda x, k: {"m": x[0, k].astype(np.float64)})
    assert np.isnan(grid_pointing.measure(case, "m", np.ones((8, 8))).value)
    case.others = [images[i : i + 1] for i in (1, 2, 3)]
    assert grid_pointing.measure(case, "m", np.ones((8, 8))).value == 1


def test_road_solves_for_the_neighbours() -> None:
    """Against the dense system of equations, written from the paper."""
    pytest.importorskip("scipy")
    values, known = random.random((2, 6, 5)), random.random((6, 5)) > 0.6
    number = {tuple(p): i for i, p in enumerate(np.argwhere(~known))}
    matrix, right = np.zeros((len(number), len(number))), np.zeros((len(number), 2))
    for (r, c), i in number.items():
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                place = (r + dr, c + dc)
                if (dr, dc) == (0, 0) or not (0 <= place[0] < 6 and 0 <= place[1] < 5):
                    continue
                weight = 1 / 6 if 0 in (dr, dc) else 1 / 12
                matrix[i, i] += weight
                if place in number:
                    matrix[i, number[place]] -= weight
                else:
                    right[i] += weight * values[:, place[0], place[1]]
    expected = values.copy()
    expected[:, ~known] = np.linalg.solve(matrix, right).T
    np.testing.assert_allclose(impute(values, known), expected, atol=1e-10)
    with pytest.raises(OptionError, match="nothing is left"):
        impute(values, np.zeros((6, 5), bool))


def test_statistics() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = random.random(9), random.random(9) + 0.2
    exact = stats.permutation_test((a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=10**6)
    assert paired_test(a, b) == pytest.approx(exact.pvalue)
    many, more = random.random(200), random.random(200)
    assert paired_test(many, more) == pytest.approx(stats.ttest_rel(many, more).pvalue, abs=0.02)
    assert paired_test(a, a) == 1
    assert paired_test(np.array([np.nan, 1]), np.array([2, np.nan])) == 1
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    found = summarize(np.append(many, np.nan))
    assert found.n == 200
    assert found.interval is not None
    width = 1.96 * many.std(ddof=1) / np.sqrt(200)
    np.testing.assert_allclose(found.interval, [many.mean() - width, many.mean() + width], atol=0.1 * width)
    assert summarize(np.array([1.0, 2])).interval is None
    assert np.isnan(summarize(np.array([np.nan])).mean)
    n = fewest_images(7)
    assert paired_test(np.ones(n), np.zeros(n)) * 7 <= 0.05 < paired_test(np.ones(n - 1), np.zeros(n - 1)) * 7


# -- on a model that is known ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patch_model(make_model: Any) -> onnx.ModelProto:
    """Class 1 is a bright patch at a known place; everything else counts for nothing."""
    weights = np.zeros((2, SIZE, SIZE), np.float32)
    weights[1][PATCH] = 1
    return make_model(
        "m = Mul(x, one) r = Relu(m) f = Flatten(r) g = Gemm<transB = 1>(f, w, b) y = Softmax<axis = 1>(g)",
        {
            "one": np.float32(1),
            "w": np.repeat(weights.reshape(2, 1, -1), 3, axis=1).reshape(2, -1) / 3,
            "b": np.array([3, 0], np.float32),
        },
        y="float[N,2] y",
    )


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    images = random.random((12, 3, SIZE, SIZE), np.float32) * 0.3
    images[:, :, PATCH[0], PATCH[1]] = random.uniform(0.7, 1, (12, 3, 3, 3))
    return images


@pytest.fixture(scope="module")
def measured(patch_model: onnx.ModelProto, patches: np.ndarray) -> pcam.Evaluation:
    oracle = np.zeros((12, SIZE, SIZE))
    oracle[:, PATCH[0], PATCH[1]] = 1
    metrics = [name for name, metric in METRICS.items() if "explain" not in metric.needs]
    region = [PATCH[1].start, PATCH[0].start, PATCH[1].stop, PATCH[0].stop]
    return pcam.evaluate(
        patch_model,
        patches,
        (),
        metrics,
        "zero",
        other_baselines=(),
        targets=1,
        regions=[region] * 12,
        maps={"oracle": oracle, "wrong": 1 - oracle},
        settings=Settings(tolerance=0),
        preprocessing="unit",
    )


@pytest.mark.parametrize(
    "metric", ["deletion", "insertion", "road", "mu_fidelity", "average_drop", "energy", "pointing"]
)
def test_an_oracle_wins(measured: pcam.Evaluation, metric: str) -> None:
    assert measured.best()[metric] == "oracle"
    tests = measured.tests(metric)
    assert tests["wrong"] < 0.05
    if metric != "average_drop":  # which the even map wins, as it is said to
        assert tests["random"] < 0.05
        better = np.less if METRICS[metric].better == "lower" else np.greater
        assert better(measured.of("oracle", metric), measured.of("random", metric)).mean() > 0.9
    assert "oracle" in measured.verdict(metric)


def test_the_even_map_is_told(measured: pcam.Evaluation) -> None:
    assert measured.of("even", "average_drop").max() == 0
    assert measured.ties["even"].tolist() == [1.0] * 12
    assert measured.ties["center"].max() <= 12 / 64  # by its symmetry
    data = measured.to_dict()
    assert data["ties"]["oracle"] == pytest.approx(55 / 64)
    assert any("pixels whose order is chance" in note for note in data["notes"])
    assert "softmax" in data["score"]


def test_a_guessed_preprocessing_is_told(small_cnn: onnx.ModelProto) -> None:
    photo = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    guessed = pcam.evaluate(small_cnn, [photo], ("gradcam",), ("sparsity",), references=())
    assert any("the preprocessing is guessed" in note for note in guessed.notes)
    said = {"mean": 0, "std": 1, "scale": 1, "color": "rgb", "resize": "stretch"}
    known = pcam.evaluate(small_cnn, [photo], ("gradcam",), ("sparsity",), references=(), preprocessing=said)
    assert not any("guessed" in note for note in known.notes)
    assert any("preprocessing: RGB 8x8, stretched" in note for note in known.notes)


def test_the_record_is_as_promised(measured: pcam.Evaluation, tmp_path: Path) -> None:
    data = json.loads(json.dumps(measured.to_dict()))
    assert set(data) >= {"methods", "best", "references", "ties"}
    assert set(data["references"]) == {"random", "center", "edge", "even"}
    found = data["methods"]["oracle"]["deletion"]
    assert set(found) == {"mean", "interval", "n"}
    assert found["n"] == 12
    assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    lines = measured.to_csv(tmp_path / "all.csv").read_text().splitlines()
    assert lines[0] == "image,method,metric,baseline,value,ties"
    assert len(lines) == 1 + len(list(measured))
    assert measured.plot().axes


def test_weights_shuffled_from_the_top(small_cnn: onnx.ModelProto) -> None:
    model = normalized(small_cnn)

    def weights(of: Any) -> dict[str, np.ndarray]:
        return {str(v.name): v.const_value.numpy() for v in of.graph.initializers.values() if v.const_value is not None}

    before = {name: value.copy() for name, value in weights(model).items()}
    names = [[str(v.name) for v in layer] for layer in layers_with_weights(model.graph)]
    assert names == [["w3", "b3"], ["w2"], ["w1", "b1"]]
    third, all_of_them = weights(randomized(model, 1 / 3, 0)), weights(randomized(model, 1, 0))
    for name, value in before.items():
        np.testing.assert_array_equal(weights(model)[name], value)  # the model itself is left
        if name in {"w1", "b1", "w2", "w3", "b3"}:
            assert (all_of_them[name] != value).any()
            np.testing.assert_array_equal(np.sort(all_of_them[name], axis=None), np.sort(value, axis=None))
            assert (third[name] != value).any() == (name in {"w3", "b3"})
    np.testing.assert_array_equal(third["w3"], all_of_them["w3"])


def test_what_needs_explanations(small_cnn: onnx.ModelProto) -> None:
    """A map of the activation is the same for every class; one that reads the gradient is not."""
    images = random.standard_normal((2, 3, 8, 8), dtype=np.float32)
    found = pcam.evaluate(
        small_cnn,
        images,
        ("hirescam", "fem"),
        ("adcc", "sensitivity", "random_logit", "randomization", "grid_pointing"),
        settings=Settings(samples=2, stages=2, steps=4),
        preprocessing="unit",
        layer="r1",
    )
    assert found.of("fem", "random_logit").tolist() == pytest.approx([1, 1])
    assert (found.of("hirescam", "random_logit") < 0.999).all()
    assert found.of("center", "randomization").tolist() == pytest.approx([1, 1])
    assert (found.of("hirescam", "randomization") < 0.999).all()
    assert (found.of("hirescam", "sensitivity") > 0).all()
    assert found.of("center", "sensitivity").tolist() == [0, 0]
    assert found.curves[("hirescam", "randomization", "")].shape == (2, 2)
    assert any("which knows nothing of the model" in found.verdict(metric) for metric in found.metrics)
    assert "images cannot tell" in found.verdict("adcc")


def table(values: dict[tuple[str, str, str], list[float]], **given: Any) -> pcam.Evaluation:
    """An evaluation of these values."""
    methods = tuple(dict.fromkeys(name for name, *_ in values if name not in REFERENCES))
    references = tuple(dict.fromkeys(name for name, *_ in values if name in REFERENCES))
    count = len(next(iter(values.values())))
    return pcam.Evaluation(
        images=[str(i) for i in range(count)],
        targets=["cat"] * count,
        methods=methods,
        references=references,
        metrics=tuple(dict.fromkeys(metric for _, metric, _ in values)),
        values={key: np.array(found, np.float64) for key, found in values.items()},
        curves={},
        ties={name: np.zeros(count) for name in (*methods, *references)},
        baselines=given.get("baselines", ("blur",)),
        score="probability",
    )


def test_another_winner_with_another_baseline_is_told() -> None:
    found = table(
        {
            ("a", "deletion", "blur"): [0.1, 0.2],
            ("b", "deletion", "blur"): [0.3, 0.3],
            ("a", "deletion", "zero"): [0.4, 0.4],
            ("b", "deletion", "zero"): [0.2, 0.1],
        },
        baselines=("blur", "zero"),
    )
    assert found.best() == {"deletion": "a"}
    assert found.best("zero") == {"deletion": "b"}
    told = "deletion: with the baseline zero the best is b, with blur a"
    assert found.disagreements() == [told]
    assert told in found.to_dict()["notes"]
    assert found.to_dict()["other_baselines"]["zero"]["best"] == {"deletion": "b"}


def test_verdicts() -> None:
    """Surely better, by chance better, worse than a map that knows nothing, and too few images to say so."""
    low, high = np.linspace(0.1, 0.2, 12), np.linspace(0.3, 0.5, 12)
    noise = np.resize([0.01, -0.012], 12)
    sure = table(
        {("a", "deletion", "blur"): low, ("b", "deletion", "blur"): high, ("random", "deletion", "blur"): high}
    )
    assert sure.verdict("deletion") == (
        "deletion (lower is better): a 0.15; better than every other method beyond chance"
    )
    chance = table({("a", "deletion", "blur"): low, ("b", "deletion", "blur"): low + noise + 0.002})
    assert "not told apart from b" in chance.verdict("deletion")
    worse = table({("a", "deletion", "blur"): high, ("even", "deletion", "blur"): low})
    assert "no better than the map even, which knows nothing of the model" in worse.verdict("deletion")
    few = table({("a", "deletion", "blur"): low[:3], ("b", "deletion", "blur"): high[:3]})
    assert "3 images cannot tell 2 maps apart, it takes 6 at least" in few.verdict("deletion")
    missing = table({("a", "energy", ""): [np.nan, np.nan]})
    assert missing.verdict("energy") == "energy: not defined for any of these maps"
    assert missing.to_dict()["methods"]["a"]["energy"] == {"mean": None, "interval": None, "n": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ("deletions",)}, "metric 'deletions' does not exist"),
        ({"metrics": ()}, "no metric was given"),
        ({"metrics": ("average_drop",), "score": "logit"}, "defined for probabilities"),
        ({"metrics": ("energy",)}, "needs to know where the objects are"),
        ({"references": ("corner",)}, "the references are random, center, edge, even"),
        ({"baseline": "grey"}, "the baselines are blur, mean, zero"),
        ({"score": "loss"}, "score is probability or logit"),
        ({"maps": {"mine": np.zeros((2, 8, 8))}, "metrics": ("random_logit",)}, "which maps of your own do not"),
        ({"maps": {"mine": np.zeros((3, 8, 8))}, "metrics": ("sparsity",)}, "shape"),
        ({"maps": {"mine": np.zeros((2, 4, 8))}, "metrics": ("sparsity",)}, "for an input of"),
        ({"maps": {"random": np.zeros((2, 8, 8))}, "metrics": ("sparsity",)}, "name of a method or reference"),
        ({"regions": [None], "metrics": ("energy",)}, "1 regions for 2 images"),
        ({"regions": [[20, 20, 30, 30], None], "metrics": ("energy",)}, "nothing of the region"),
        ({"targets": [1]}, "1 targets for 2 images"),
        ({"targets": [1, 9]}, "out of range"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str, small_cnn: onnx.ModelProto) -> None:
    images = random.random((2, 3, 8, 8), np.float32)
    with pytest.raises((OptionError, InputError, TargetError), match=message):
        pcam.evaluate(small_cnn, images, ("gradcam",), preprocessing="unit", **{"metrics": ("deletion",), **given})


def test_metrics_are_records() -> None:
    assert check_metrics("road") == ("road",)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.summary
        assert metric.paper
        assert metric.better in {"higher", "lower"}
    assert road.needs == {"scipy"}


@pytest.mark.slow
def test_compare() -> None:
    """Methods that differ in nothing agree; a map that knows no class is the same for two."""
    photo = assets.photo()
    methods = ("gradcam", "hirescam", "eigencam", "gradient")
    explained = pcam.explain(assets.model(), photo, methods, "tiger cat, coffee mug", task="classify")
    found = compare(explained)
    assert found.between_methods.shape == (2, 4, 4)
    assert found.between_methods[0, 0, 1] == pytest.approx(1, abs=1e-3)  # behind a global average pool
    assert found.between_targets[2, 0, 1] == 1
    assert found.between_targets[0, 0, 1] < 0.5
    assert json.dumps(found.to_dict())
    with pytest.raises(OptionError, match="one map only"):
        compare(pcam.explain(assets.model(), photo, ("gradcam",), task="classify"))


@pytest.mark.slow
def test_guided_maps_fail_the_sanity_check() -> None:
    """Adebayo et al. 2018 on a real model: Guided Backprop shows what the image is, whatever the weights are."""
    photos = [assets.photo(name) for name in ("chelsea.png", "coffee.jpg", "rocket.jpg")]
    found = pcam.evaluate(assets.model(), photos, ("gradcam", "guided_backprop"), ("randomization", "random_logit"))
    for metric, least in (("randomization", 0.4), ("random_logit", 0.9)):
        assert found.of("guided_backprop", metric).mean() > least
        assert found.of("gradcam", metric).mean() < found.of("guided_backprop", metric).mean() - 0.2


@pytest.mark.slow
def test_grad_cam_finds_its_cell_of_four() -> None:
    photos = [assets.photo(name) for name in ("chelsea.png", "coffee.jpg", "rocket.jpg", "astronaut.jpg")]
    found = pcam.evaluate(assets.model(), photos, ("gradcam", "fem"), ("grid_pointing",))
    assert found.of("even", "grid_pointing").tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert found.of("gradcam", "grid_pointing").mean() > 0.45
    assert found.of("fem", "grid_pointing").mean() < found.of("gradcam", "grid_pointing").mean()


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from portable_cam.cli import main

    (tmp_path / "regions.json").write_text(json.dumps({"chelsea.png": [100, 20, 400, 290]}))
    arguments = ["evaluate", str(assets.model()), str(assets.photo("chelsea.png")), str(assets.photo("rocket.jpg"))]
    arguments += ["--methods", "gradcam,gradient", "--metrics", "deletion,energy", "--steps", "4"]
    arguments += ["--regions", str(tmp_path / "regions.json"), "--csv", str(tmp_path / "a.csv")]
    monkeypatch.setattr("sys.argv", ["portable-cam", *arguments, "--plot", str(tmp_path / "a.png"), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    data = json.loads(capsys.readouterr().out)
    assert data["methods"]["gradcam"]["energy"]["n"] == 1
    assert data["methods"]["gradcam"]["deletion"]["n"] == 2
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "a.csv").exists()
    monkeypatch.setattr("sys.argv", ["portable-cam", *arguments])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "deletion (lower is better)" in shown
