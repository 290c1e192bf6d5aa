# SPDX-License-Identifier: Apache-2.0
"""Each kernel against its numpy twin, with memory poisoned: under Triton's interpreter, on a GPU with ``-m gpu``.

The interpreter runs about a thousand programs a second: grids are small.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from costs import slow_but

from portable_cam.errors import InputError, OptionError
from portable_cam.image import colormap as report
from portable_cam.image.look import Look
from portable_cam.kernels import cam, guided, moments, of_torch, overlay, reference, upsample
from portable_cam.kernels.array import Array
from portable_cam.kernels.launch import TorchDevice

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

TOLERANCE = {"float32": 2e-6, "float16": 2e-6, "bfloat16": 2e-6}  # inputs are rounded before both see them
random = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the library takes is full of NaN, so that an element which no kernel wrote shows."""
    real: Callable[..., Any] = torch.empty

    def poisoned(*args: Any, **options: Any) -> Any:
        made = real(*args, **options)
        if "portable_cam" in sys._getframe(1).f_globals.get("__name__", ""):
            made.fill_(float("nan") if made.is_floating_point() else 201)
        return made

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture(params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> TorchDevice:
    """Triton's interpreter; with ``-m gpu`` a GPU, kernels compiled and launched by the driver."""
    if request.param == "interpreted":
        return TorchDevice("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from portable_cam.kernels.on_torch import DriverDevice

    return DriverDevice()


def put(device: TorchDevice, t: Any) -> Array:
    """A tensor where the kernels run; its strides stay."""
    if t.device.type == "cpu" and device.place != "cpu":
        moved = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device.place)
        t = moved.copy_(t)
    return of_torch(t)


def tensor(array: Any, dtype: str = "float32") -> Any:
    return torch.from_numpy(np.array(array)).to(getattr(torch, dtype))


def back(array: Array) -> np.ndarray:
    """As float64."""
    return array.owner.to(torch.float64).cpu().numpy()


def exact(t: Any) -> np.ndarray:
    """What a kernel reads from a tensor, in float64."""
    return t.to(torch.float64).numpy()


def close(ours: np.ndarray, theirs: np.ndarray, relative: float = 5e-6) -> None:
    """Equal to a fraction of the greatest value; NaN and infinity in the same places."""
    assert ours.shape == theirs.shape
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_array_equal(ours[~finite], theirs[~finite])
    scale = np.abs(theirs[finite]).max(initial=0)
    assert np.abs(ours[finite] - theirs[finite]).max(initial=0) <= relative * max(scale, 1e-30)


def normal(*shape: int, dtype: str = "float32") -> Any:
    return tensor(random.standard_normal(shape), dtype)


def test_poison_shows(device: TorchDevice) -> None:
    assert np.isnan(back(device.empty((3,)))).all()
    assert torch.zeros(2).isfinite().all()


SHAPES = [
    (2, 2, 5, 7, 7),
    (1, 1, 1, 1, 1),
    *(
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in [(1, 3, 40, 3, 5), (2, 1, 130, 1, 9), (1, 1, 9, 17, 19), (1, 2, 32, 4, 4)]
    ),
]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize(("n", "k", "c", "h", "w"), SHAPES)
def test_weighted_sum(device: TorchDevice, n: int, k: int, c: int, h: int, w: int, method: str, last: bool) -> None:
    a, g = normal(n, c, h, w).abs(), normal(n, k, c, h, w)
    if method == "weights":
        weights = g.mean((3, 4))
        signed = reference.weighted_sum(exact(weights), exact(a), relu=False)
        g_in = weights
    else:
        signed = reference.method_map(method, exact(a), exact(g))
        g_in = g.movedim(2, -1).contiguous() if last else g
    a_in = a.movedim(1, -1).contiguous() if last else a
    raw, ranges = cam.weighted_sum(device, put(device, a_in), put(device, g_in), method=method, channels_last=last)
    close(back(raw), np.maximum(signed, 0))
    close(back(ranges), np.stack([signed.min((2, 3)), signed.max((2, 3))], -1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["weights", "gradcam", "layercam"])
def test_weighted_sum_of_halves(device: TorchDevice, method: str, dtype: str) -> None:
    a, g = normal(2, 20, 4, 5, dtype=dtype), normal(2, 2, 20, 4, 5, dtype=dtype)
    if method == "weights":
        weights = g.mean((3, 4))
        signed = reference.weighted_sum(exact(weights), exact(a), relu=False)
        g = weights
    else:
        signed = reference.method_map(method, exact(a), exact(g))
    raw, _ = cam.weighted_sum(device, put(device, a), put(device, g), method=method, relu=False)
    assert raw.dtype == "float32"
    close(back(raw), signed)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_counterfactual_and_scaled_seed(device: TorchDevice, method: str) -> None:
    a, g = normal(1, 6, 4, 4).abs(), normal(1, 1, 6, 4, 4)
    raw, _ = cam.weighted_sum(device, put(device, a), put(device, g * 1024), method=method, scale=-1 / 1024, relu=False)
    close(back(raw), -reference.method_map(method, exact(a), exact(g)))


def test_strides(device: TorchDevice) -> None:
    a, g = normal(4, 12, 4, 4), normal(2, 6, 12, 4, 4)
    a_view, g_view = a[1:3, ::2], g[:, 1:5:2, ::2]
    raw, _ = cam.weighted_sum(device, put(device, a_view), put(device, g_view))
    close(back(raw), np.maximum(reference.method_map("gradcam", exact(a_view), exact(g_view)), 0))
    with pytest.raises(InputError, match="pixels of a channel must lie one after another"):
        cam.weighted_sum(device, put(device, a[:2, ..., ::2]), put(device, g[..., ::2]))
    last = a.permute(0, 2, 3, 1)
    with pytest.raises(InputError, match="channels of a pixel"):
        cam.weighted_sum(device, put(device, last), put(device, last[:, None]), channels_last=True)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter computes with numpy
@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("bad", slow_but(["nan"], [np.nan, np.inf]))
def test_nan_and_infinity_are_seen(device: TorchDevice, method: str, bad: float) -> None:
    a, g = normal(2, 3, 4, 4).abs(), normal(2, 1, 3, 4, 4)
    a[0, 1, 2, 2], g[0, 0, 1, 2, 2] = bad, 1
    g_in = g.mean((3, 4)) if method == "weights" else g
    raw, ranges = cam.weighted_sum(device, put(device, a), put(device, g_in), method=method, relu=False)
    assert not np.isfinite(back(ranges)[0]).all()
    assert not np.isfinite(back(raw)[0, 0]).all()
    assert np.isfinite(back(raw)[1]).all()
    assert np.isfinite(back(ranges)[1]).all()


def test_finish(device: TorchDevice) -> None:
    maps = normal(2, 2, 5, 60)
    raw, ranges = cam.finish(device, put(device, maps), scale=-1)
    close(back(raw), np.maximum(-exact(maps), 0))
    close(back(ranges)[..., 1], (-exact(maps)).max((2, 3)))


def test_the_same_bits_every_time(device: TorchDevice) -> None:
    a, g = put(device, normal(1, 300, 7, 7)), put(device, normal(1, 1, 300, 7, 7))
    first, second = (cam.weighted_sum(device, a, g)[0].owner for _ in range(2))
    assert torch.equal(first, second)


def test_weighted_sum_refuses(device: TorchDevice) -> None:
    a, g = put(device, normal(2, 3, 4, 4)), put(device, normal(2, 1, 3, 4, 4))
    with pytest.raises(OptionError, match="method 'smooth' has no kernel"):
        cam.weighted_sum(device, a, g, method="smooth")
    with pytest.raises(InputError, match=r"the gradient must have shape \(2, any, 3, 4, 4\)"):
        cam.weighted_sum(device, a, put(device, normal(2, 1, 3, 4, 5)))
    with pytest.raises(InputError, match="not float64"):
        cam.weighted_sum(device, put(device, normal(2, 3, 4, 4).double()), g)
    with pytest.raises(InputError, match="is empty"):
        cam.weighted_sum(device, put(device, normal(2, 0, 4, 4)), put(device, normal(2, 1, 0, 4, 4)))


SIZES = [
    pytest.param(7, 7, 31, 29, marks=pytest.mark.slow),
    pytest.param(1, 1, 5, 3, marks=pytest.mark.slow),
    pytest.param(4, 3, 4, 3, marks=pytest.mark.slow),
    pytest.param(2, 9, 40, 64, marks=pytest.mark.slow),
    (20, 20, 9, 7),
    (1, 8, 1, 1),
]
NORMS = {"none": lambda x: x, "minmax": reference.minmax, "pytorch_grad_cam": reference.pgc_scale}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("h", "w", "H", "W"), SIZES)
def test_upsample(device: TorchDevice, h: int, w: int, H: int, W: int, norm: Any) -> None:
    maps = normal(2, 2, h, w)
    out, extent = upsample.upsample(device, upsample.Upsampling(put(device, maps), (H, W)), norm)
    expected = NORMS[norm](reference.upsample_bilinear(exact(maps), (H, W)))
    close(back(out), expected)
    if norm != "none":
        close(back(extent), np.stack([expected.min((2, 3)), expected.max((2, 3))], -1))


QUICK = [(7, 50), (13, 20)]
LENGTHS = [(1, 1), (1, 9), (2, 3), (3, 3), (3, 8), (4, 33), (5, 11), (7, 2), (8, 17), (13, 40), (9, 18), (9, 19)]


@pytest.mark.parametrize(
    ("size", "length"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LENGTHS)]
)
def test_extremes_lie_at_the_ends_of_cells(device: TorchDevice, size: int, length: int) -> None:
    """Few pixels are looked at, along either axis, and no other is less or greater."""
    maps = normal(8, 2, size, 6)
    of = upsample.Upsampling(put(device, maps), (length, 31))
    partial = upsample.find_range(device, of).owner.double().cpu().numpy()
    wide = reference.upsample_bilinear(exact(maps), (length, 31))
    found = np.stack([partial[..., 0].min(2), partial[..., 1].max(2)], -1)
    close(found, np.stack([wide.min((2, 3)), wide.max((2, 3))], -1))


def test_upsample_as_torch_does(device: TorchDevice) -> None:
    maps = normal(1, 1, 5, 6)
    out, _ = upsample.upsample(device, upsample.Upsampling(put(device, maps), (17, 23)), "none")
    theirs = torch.nn.functional.interpolate(maps, (17, 23), mode="bilinear", align_corners=False)
    close(back(out), exact(theirs))


def test_upsample_scaled_first(device: TorchDevice) -> None:
    signed = normal(2, 1, 6, 6)
    raw, ranges = cam.finish(device, put(device, signed))
    of = upsample.Upsampling(raw, (20, 21), scale_by=ranges)
    out, _ = upsample.upsample(device, of, "pytorch_grad_cam")
    scaled = reference.upsample_bilinear(reference.pgc_scale(np.maximum(exact(signed), 0)), (20, 21))
    close(back(out), reference.pgc_scale(scaled))


def test_mean_of_layers(device: TorchDevice) -> None:
    layers = [normal(1, 2, 5, 5), normal(1, 2, 10, 8)]
    total = None
    for maps in layers:
        of = upsample.Upsampling(put(device, maps), (16, 12))
        total, _ = upsample.upsample(device, of, "minmax", factor=0.5, add_to=total)
    assert total is not None
    mean = np.mean([reference.minmax(reference.upsample_bilinear(exact(m), (16, 12))) for m in layers], axis=0)
    close(back(total), mean)
    same, _ = upsample.upsample(device, upsample.Upsampling(total, (16, 12)), "none")
    assert torch.equal(same.owner, total.owner)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_upsample_flat_nan_infinite(device: TorchDevice) -> None:
    maps = torch.full((1, 4, 3, 3), 2.5)
    maps[0, 1, 1, 1] = np.nan
    maps[0, 2, 1, 1] = np.inf
    maps[0, 3] = 0
    out, extent = upsample.upsample(device, upsample.Upsampling(put(device, maps), (33, 40)), "minmax")
    wide = back(out)[0]
    assert (wide[0] == 0).all()
    assert np.isnan(wide[1]).all()
    assert not np.isfinite(wide[2]).all()
    assert (wide[3] == 0).all()
    np.testing.assert_array_equal(np.isfinite(back(extent)[0]).all(-1), [True, False, False, True])


@pytest.mark.slow
def test_many_tiles(device: TorchDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks to a tile, as beyond 256 x 256 pixels."""
    monkeypatch.setattr(upsample, "BLOCK", 4)
    monkeypatch.setattr(upsample, "TILES", 4)
    maps = normal(1, 1, 3, 3)
    out, _ = upsample.upsample(device, upsample.Upsampling(put(device, maps), (15, 11)))
    close(back(out), reference.minmax(reference.upsample_bilinear(exact(maps), (15, 11))))


def test_upsample_refuses(device: TorchDevice) -> None:
    maps = put(device, normal(1, 1, 3, 3))
    with pytest.raises(InputError, match="cannot be resized"):
        upsample.upsample(device, upsample.Upsampling(maps, (0, 4)))
    with pytest.raises(InputError, match="cannot be resized"):
        upsample.upsample(device, upsample.Upsampling(maps, (1 << 29, 4)))
    with pytest.raises(InputError, match="contiguous"):
        upsample.upsample(device, upsample.Upsampling(put(device, normal(1, 1, 3, 6)[..., ::2]), (4, 4)))
    with pytest.raises(InputError, match="nearest"):
        upsample.upsample(device, upsample.Upsampling(maps, (4, 4), nearest=True), "minmax")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "size"),
    slow_but(["float32", "bfloat16"], [("float32", (15, 13)), ("float16", (3, 48)), ("bfloat16", (1, 5))]),
)
def test_guided_product(device: TorchDevice, dtype: str, size: tuple[int, int], last: bool) -> None:
    g, maps = normal(2, 2, 3, *size, dtype=dtype), normal(2, 2, 4, 4).abs()
    g_in = g.movedim(2, -1).contiguous() if last else g
    out = back(
        guided.guided_product(
            device, put(device, g_in), upsample.Upsampling(put(device, maps), size), channels_last=last
        )
    )
    close(np.moveaxis(out, -1, 2) if last else out, reference.guided_product(exact(g), exact(maps)))


def test_guided_product_nearest(device: TorchDevice) -> None:
    g, maps = normal(1, 1, 1, 9, 40), normal(1, 1, 4, 7)
    of = upsample.Upsampling(put(device, maps), (9, 40), nearest=True)
    wide = reference.upsample_nearest(exact(maps), (9, 40))
    close(wide, exact(torch.nn.functional.interpolate(maps, (9, 40), mode="nearest")))
    close(back(guided.guided_product(device, put(device, g), of, scale=0.25)), exact(g) * wide[:, :, None] / 4)


def test_guided_product_normalised(device: TorchDevice) -> None:
    g, signed = normal(1, 2, 3, 12, 12), normal(1, 2, 4, 4)
    raw, ranges = cam.finish(device, put(device, signed))
    of = upsample.Upsampling(raw, (12, 12), scale_by=ranges)
    out = guided.guided_product(device, put(device, g), of, "pytorch_grad_cam")
    scaled = reference.upsample_bilinear(reference.pgc_scale(np.maximum(exact(signed), 0)), (12, 12))
    close(back(out), exact(g) * reference.pgc_scale(scaled)[:, :, None])


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0, None])
def test_overlay(device: TorchDevice, opacity: float | None, gray: bool) -> None:
    maps = random.uniform(-0.1, 1.1, (2, 2, 9, 7)).astype(np.float32)
    maps[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    maps[0, 0, 1, :3] = np.arange(3, dtype=np.float32) / 255 + np.float32(0.5 / 255)
    palette = random.integers(0, 256, (257, 3), dtype=np.uint8)
    opacities = random.uniform(0, 1, 257) if opacity is None else np.full(257, opacity)
    opacities = opacities.astype(np.float32)
    photos = random.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    arrays = (put(device, torch.from_numpy(a)) for a in (maps, palette, opacities, photos))
    out = overlay.overlay(device, *arrays, gray=gray)
    expected = reference.overlay(maps, palette, opacities, photos, gray=gray)
    off = np.abs(out.owner.cpu().numpy().astype(int) - expected.astype(int))
    # in float32 a value just at a half may round the other way
    assert off.max() <= (1 if opacity is None else 0)
    assert (off > 0).mean() < 0.02


@pytest.mark.parametrize("look", [Look(), Look("jet", 0.5, rising=False, gray=False), Look("viridis", 1.0)])
def test_overlay_as_the_report_does(device: TorchDevice, look: Look) -> None:
    """Every pixel as the host draws it."""
    maps = random.uniform(0, 1, (1, 1, 60, 50)).astype(np.float32)
    maps[0, 0, 2, 2] = np.nan
    photo = random.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    tables = report.palette(look.colormap).copy(), report.opacities(look)
    arrays = (put(device, torch.from_numpy(a)) for a in (maps, *tables, photo[None]))
    out = overlay.overlay(device, *arrays, gray=look.gray)
    np.testing.assert_array_equal(out.owner.cpu().numpy()[0, 0], report.overlay(photo, maps[0, 0], look))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "length"), slow_but(["3", "2"], [(3, 1), (2, 1000), (1, 5001), (4, 17), (2, 1040)]))
def test_row_statistics(device: TorchDevice, rows: int, length: int, dtype: str) -> None:
    x = (normal(rows, length) + 100).to(getattr(torch, dtype))
    close(back(moments.row_statistics(device, put(device, x))), reference.row_statistics(exact(x)), 2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_row_statistics_over_many_tiles(device: TorchDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_BLOCK", 16)
    monkeypatch.setattr(moments, "_TILES", 4)
    x = normal(2, 143) * 3 + 7
    ours = back(moments.row_statistics(device, put(device, x), correction=1))
    close(ours, reference.row_statistics(exact(x), 1))
    x[1, 140] = np.nan
    ours = back(moments.row_statistics(device, put(device, x)))
    assert np.isfinite(ours[0]).all()
    assert np.isnan(ours[1]).all()
    x[1, 140] = np.inf
    assert back(moments.row_statistics(device, put(device, x)))[1, 3] == np.inf


def test_sample_moments(device: TorchDevice) -> None:
    x = normal(11, 37) + 50
    running = moments.SampleMoments(device, 37)
    for start, end in pairwise((0, 1, 5, 11)):
        running.add(put(device, x[start:end]))
    mean, variance = reference.sample_moments(exact(x), 1)
    close(back(running.variance(correction=1)), variance, 1e-5)
    close(back(running.mean), mean)
    assert running.seen == 11


def test_sample_moments_refuse(device: TorchDevice) -> None:
    running = moments.SampleMoments(device, 4)
    with pytest.raises(InputError, match="not defined"):
        running.variance()
    with pytest.raises(InputError, match=r"the samples must have shape \(any, 4\)"):
        running.add(put(device, normal(2, 5)))
    with pytest.raises(OptionError, match="correction"):
        moments.row_statistics(device, put(device, normal(2, 5)), correction=3)
