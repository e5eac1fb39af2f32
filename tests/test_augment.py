"""Augmentation: torchvision is the slow truth, for the warps and for the draws."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Generator, Tensor
from torchvision import transforms
from torchvision.transforms import functional as tvf
from torchvision.transforms import v2

from spinalnet._checks import InputError
from spinalnet.data import augment, erasing, warps
from spinalnet.data.augment import AUGMENTATIONS, build_augment
from spinalnet.kernels import native, warp

BILINEAR = transforms.InterpolationMode.BILINEAR
TOLERANCE = 2e-5  # float32 coordinates of a 1..50 pixel grid, on values of 0..1
P_VALUE = 1e-3  # seeds are fixed: a test that passes stays passed
DRAWS = 3000


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(batch: int = 8, channels: int = 3, height: int = 20, width: int = 28) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(9))


def smooth(batch: int = 1, size: int = 32) -> Tensor:
    """A picture with no detail finer than a few pixels, bright up to its edges."""
    axis = torch.linspace(0, 3, size)
    return (0.6 + 0.4 * torch.sin(axis)[:, None] * torch.cos(2 * axis)).expand(batch, 1, -1, -1)


# --- the same parameters give torchvision's picture -----------------------------------------------


@pytest.mark.parametrize("height", [20, 21])
def test_perspective_equals_torchvision(height):
    images = noise(height=height)
    corners = warps.draw_corners(8, height, 28, 0.5, generator())
    start = [[0, 0], [27, 0], [27, height - 1], [0, height - 1]]
    ours = warps._warp(
        images, [warps.Map(warps.quad_to_rectangle(corners, height, 28), None, True)]
    )
    for image, quad, warped in zip(images.float() / 255, corners, ours, strict=True):
        truth = tvf.perspective(image, start, quad.int().tolist(), BILINEAR, fill=None)
        torch.testing.assert_close(warped, truth, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("angle", [-180.0, -33.3, 0.0, 10.0, 90.0, 145.0])
def test_rotation_equals_torchvision(angle):
    images = noise()
    matrix = warps.rotation_about_centre(torch.full((8,), angle), 20, 28)
    ours = warps._warp(images, [warps.Map(matrix)])
    truth = tvf.rotate(images.float() / 255, angle, BILINEAR)
    torch.testing.assert_close(ours, truth, atol=TOLERANCE, rtol=0)


def ties(maps: list[warps.Map], images: Tensor, reach: float = 1e-3) -> Tensor:
    """Where a nearest map comes so close to the border of two pixels that rounding decides."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    point = torch.stack([x, y, torch.ones_like(x)], 2).double().expand(len(images), -1, -1, -1)
    close = torch.zeros(len(images), height, width, dtype=torch.bool)
    for step in reversed(maps):
        point = (step.matrix.double()[:, None, None] @ point[..., None])[..., 0]
        point = point / point[..., 2:]
        if step.nearest:
            close |= ((point - point.round()).abs() < reach)[..., :2].any(3)
            point[..., :2] = point[..., :2].floor() + 0.5
    return close.unsqueeze(1)


@pytest.mark.parametrize("angle", [-180.0, -33.3, 0.0, 10.0, 90.0, 145.0])
def test_rotation_copies_the_pixels_that_torchvision_copies(angle):
    images = noise()
    maps = [warps.Map(warps.rotation_about_centre(torch.full((8,), angle), 20, 28), nearest=True)]
    ours, truth = warps._warp(images, maps), tvf.rotate(images, angle)
    assert ours.dtype == torch.uint8
    if angle % 90:  # right angles read the very centres of pixels
        sure = ~ties(maps, images)
        assert sure.float().mean() > 0.99
        ours, truth = ours * sure, truth * sure
    assert torch.equal(ours, truth)


def test_one_warp_is_torchvisions_perspective_and_then_its_rotation():
    images = noise()
    corners = warps.draw_corners(8, 20, 28, 0.5, generator())
    angles = torch.linspace(-30, 30, 8)
    maps = [
        warps.Map(warps.quad_to_rectangle(corners, 20, 28), projective=True),
        warps.Map(warps.rotation_about_centre(angles, 20, 28), nearest=True),
    ]
    ours, sure = warps._warp(images, maps), ~ties(maps[1:], images)
    assert sure.float().mean() > 0.99
    start = [[0, 0], [27, 0], [27, 19], [0, 19]]
    for row, image in enumerate(images.float() / 255):
        warped = tvf.perspective(image, start, corners[row].int().tolist(), BILINEAR, fill=None)
        truth = tvf.rotate(warped, float(angles[row]))
        torch.testing.assert_close(ours[row] * sure[row], truth * sure[row], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("angle", "shift"), [(0.0, [3, -2]), (17.0, [-5, 4]), (-90.0, [1, 1])])
def test_affine_equals_torchvision(angle, shift):
    images = noise()
    shifts = torch.tensor([shift]).float().expand(8, 2)
    matrix = warps.rotation_about_centre(torch.full((8,), angle), 20, 28, shifts)
    # torchvision turns clockwise here and counter-clockwise in `rotate`.
    truth = tvf.affine(images.float() / 255, -angle, shift, 1.0, [0.0, 0.0], BILINEAR)
    ours = warps._warp(images, [warps.Map(matrix)])
    torch.testing.assert_close(ours, truth, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 20, 28), (0, 0, 7, 9), (13, 3, 7, 25), (5, 27, 15, 1)])
def test_resized_crop_equals_torchvision(box):
    images = noise()
    ours = warps._warp(images, [warps.box_to_full(torch.tensor([box] * 8), 20, 28)])
    truth = tvf.resized_crop(images.float() / 255, *box, [20, 28], BILINEAR, antialias=True)
    torch.testing.assert_close(ours, truth, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("large", "small"), [(272, 256), (230, 224), (3, 2)])
def test_zoom_crop_is_a_window_of_the_enlarged_image(large, small):
    images = noise()
    ours = build_augment(f"zoom-crop:{large},{small}")(images, generator())
    # At the size where the enlarged image has whole pixels, the windows are those of torchvision.
    height, width = 20 * large // small, 28 * large // small
    if (height * small, width * small) == (20 * large, 28 * large):
        enlarged = tvf.resize(images.float() / 255, [height, width], BILINEAR, antialias=True)
        windows = enlarged.unfold(2, 20, 1).unfold(3, 28, 1)
        misses = (windows - ours[:, :, None, None]).abs().amax((1, 4, 5))
        assert (misses.flatten(1).min(1).values < TOLERANCE).all()
    # Every place is drawn, none is outside.
    pixels = torch.arange(28.0).expand(400, 1, 20, 28) / 28
    seen = build_augment(f"zoom-crop:{large},{small}")(pixels, generator())[:, 0, 0, :]
    scale = small / large
    left = (seen[:, 14] * 28 + 0.5 - 14.5 * scale) / (28 / large)
    assert left.min() > -0.01
    assert left.max() < large - small + 0.01
    assert (left - left.round()).abs().max() < 0.01
    assert len(left.round().unique()) == large - small + 1


def test_crop_is_one_of_the_windows_of_the_padded_image():
    images = noise()
    padded = tvf.pad(images, [2, 2, 2, 2])
    out = build_augment("crop:2")(images, generator())
    assert out.dtype == torch.uint8
    for source, image in zip(padded, out, strict=True):
        windows = [tvf.crop(source, i, j, 20, 28) for i in range(5) for j in range(5)]
        assert sum(torch.equal(image, window) for window in windows) == 1


@pytest.mark.parametrize(("spec", "mirror"), [("flip", tvf.hflip), ("vertical-flip", tvf.vflip)])
def test_flips_mirror_about_half_of_the_images(spec, mirror):
    images = noise(batch=400)
    out = build_augment(spec)(images, generator())
    mirrored = (out == mirror(images)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(build_augment(f"{spec}:1")(images, generator()), mirror(images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("spec", "adjust"),
    [("brightness:0.8", tvf.adjust_brightness), ("contrast:0.8", tvf.adjust_contrast)],
)
def test_colour_equals_torchvision(spec, adjust, channels):
    images = noise(channels=channels)
    ours = build_augment(spec)(images, generator(3))
    factors = warps.uniform(0.2, 1.8, (8,), generator(3))
    for image, factor, changed in zip(images.float() / 255, factors, ours, strict=True):
        torch.testing.assert_close(changed, adjust(image, factor.item()), atol=2e-6, rtol=0)


# --- the compiled warp is the one of torch operations ---------------------------------------------

needs_kernels = pytest.mark.skipif(
    native.UNAVAILABLE is not None, reason=native.UNAVAILABLE or "built"
)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Tensor, list[warps.Map]]:
    """Images and maps of a valid chain: interpolating ones first, nearest ones last."""
    batch, channels = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = generator(draw(st.integers(0, 10**6)))
    kinds = [
        draw(st.sampled_from(["quad", "box", "affine"])) for _ in range(draw(st.integers(1, 3)))
    ]
    smooth_steps = draw(st.integers(0, len(kinds)))
    maps = []
    for number, kind in enumerate(kinds):
        box, nearest = None, number >= smooth_steps
        if kind == "quad":
            corners = warps.draw_corners(batch, height, width, 0.9, random)
            matrix = warps.quad_to_rectangle(corners, height, width)
        elif kind == "box":
            boxes = warps.draw_boxes(batch, height, width, (0.1, 1.0), (0.5, 2.0), random)
            crop = warps.box_to_full(boxes, height, width)
            matrix, box = crop.matrix, crop.box
        else:
            angles = warps.uniform(-180, 180, (batch,), random)
            shift = warps.uniform(-9, 9, (batch, 2), random)
            matrix = warps.rotation_about_centre(angles, height, width, shift)
        maps.append(warps.Map(matrix, box, kind == "quad", nearest))
    shape = (batch, channels, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    return (images if draw(st.booleans()) else images / 255), maps


def warp_of_torch(images: Tensor, maps: list[warps.Map]) -> Tensor:
    return warps._sample(images, *warps._locate(images, maps), nearest=maps[0].nearest)


@needs_kernels
@given(chains())
def test_the_compiled_warp_is_the_warp_of_torch(chain):
    images, maps = chain
    for build in ("x86_64_v3", "baseline", native.instruction_set()):
        if not native.extension.select(build):
            continue
        ours, truth = warp.warp(images, maps), warp_of_torch(images, maps)
        if maps[0].nearest:
            assert torch.equal(ours, truth)
        else:
            torch.testing.assert_close(ours, truth, atol=TOLERANCE, rtol=0)


@needs_kernels
def test_the_compiled_warp_has_the_same_bits_for_any_build_threads_and_layout(monkeypatch):
    images = noise(batch=37, height=61, width=83)
    step = build_step("perspective:0.5,1")
    maps = [step.draw(37, 61, 83, generator())]
    best = native.instruction_set()
    expected = warp.warp(images, maps)
    turned = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(warp.warp(turned, maps), expected)
    for build in ("baseline", "x86_64_v3", best):
        if native.extension.select(build):
            for threads in (1, 2, 5):
                monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
                assert torch.equal(warp.warp(images, maps), expected)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_maps_that_lead_nowhere_read_black(value, nearest):
    for place in itertools.product(range(3), range(3)):
        matrix = torch.eye(3).repeat(8, 1, 1)
        matrix[:2, place[0], place[1]] = value
        matrix[2, :2], matrix[3] = value, 0.0
        maps = [warps.Map(matrix, None, True, nearest)]
        paths = [warp_of_torch] if native.UNAVAILABLE else [warp_of_torch, warp.warp]
        for warp_images in paths:
            out = warp_images(noise(), maps)
            assert not out[2:4].any()
            assert out.isfinite().all()
            as_it_is = noise()[4:] if nearest else noise()[4:].float() / 255
            torch.testing.assert_close(out[4:], as_it_is, atol=TOLERANCE, rtol=0)


def test_the_compiled_warp_leaves_to_torch_what_it_cannot_do():
    images = noise() / 255
    assert not warp.can_warp(images.double())
    assert not warp.can_warp(images.clone().requires_grad_())
    assert not warp.can_warp(images.to("meta"))
    grown = images.clone().requires_grad_()
    build_augment("perspective:0.5,1+rotation:10")(grown, generator()).sum().backward()
    assert grown.grad is not None
    assert grown.grad.isfinite().all()


@needs_kernels
def test_concurrent_warps_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    images = noise(batch=70, height=40, width=60)
    maps = [
        [build_step("perspective:0.5,1").draw(70, 40, 60, generator(seed))] for seed in range(6)
    ]
    expected = [warp.warp(images, chain) for chain in maps]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            found = list(pool.map(lambda chain: warp.warp(images, chain), maps))
            assert all(map(torch.equal, found, expected))


@needs_kernels
def test_the_compiled_warp_refuses_maps_of_other_batches():
    with pytest.raises(InputError, match="a map needs a tensor of shape"):
        warp.warp(noise(), [warps.Map(torch.eye(3).repeat(7, 1, 1))])


# --- the draws have torchvision's distribution ----------------------------------------------------


def same_distribution(ours: Tensor, theirs: Tensor) -> None:
    """Two-sample Kolmogorov-Smirnov test, column by column."""
    for a, b in zip(ours.double().unbind(1), theirs.double().unbind(1), strict=True):
        assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > P_VALUE


def test_corners_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    theirs = torch.tensor(
        [transforms.RandomPerspective.get_params(28, 21, 0.5)[1] for _ in range(DRAWS)]
    )
    ours = warps.draw_corners(DRAWS, 21, 28, 0.5, generator())
    same_distribution(ours.flatten(1), theirs.flatten(1))
    for corner, axis in itertools.product(range(4), range(2)):  # the very same whole numbers
        assert set(ours[:, corner, axis].tolist()) == set(theirs[:, corner, axis].tolist())


def test_a_share_p_of_the_images_is_warped():
    images = torch.rand(2000, 1, 8, 8, generator=generator())
    out = build_augment("perspective:0.5,0.3")(images, generator())
    warped = ((out - images).abs().amax((1, 2, 3)) > 1e-4).float().mean()
    unmoved = (1 / 3) ** 8  # all eight offsets 0, of {0, 1, 2}
    assert abs(warped - 0.3 * (1 - unmoved)) < 0.04


@pytest.mark.parametrize(("degrees", "translate"), [(10.0, 0.0), (30.0, 0.2)])
def test_angles_and_shifts_are_drawn_as_torchvision_draws_them(degrees, translate):
    torch.manual_seed(0)
    theirs = []
    for _ in range(DRAWS):
        angle, shift, _, _ = transforms.RandomAffine.get_params(
            [-degrees, degrees], [translate, translate], None, None, [28, 21]
        )
        theirs.append([angle, *shift])
    step = build_step(f"affine:{degrees},{translate}")
    matrix = step.draw(DRAWS, 21, 28, generator()).matrix
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]) * 180 / math.pi
    # What the centre of the image reads, turned forward, is minus the shift.
    read = matrix[:, :2] @ torch.tensor([14.0, 10.5, 1.0]) - torch.tensor([14.0, 10.5])
    shift = -(matrix[:, :2, :2].mT @ read[:, :, None])[:, :, 0]
    assert (shift - shift.round()).abs().max() < 1e-4
    same_distribution(torch.cat([angles[:, None], shift.round()], 1), torch.tensor(theirs))


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((28, 28), (0.95, 1.0), (3 / 4, 4 / 3)),
        ((28, 28), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((20, 33), (0.3, 1.0), (0.5, 3.0)),
    ],
)
def test_boxes_are_drawn_as_torchvision_draws_them(size, scale, ratio):
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    theirs = torch.tensor(
        [transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)]
    )
    ours = warps.draw_boxes(DRAWS, *size, scale, ratio, generator())
    same_distribution(ours, theirs)
    same_distribution((ours[:, 2] * ours[:, 3])[:, None], (theirs[:, 2] * theirs[:, 3])[:, None])
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()


@pytest.mark.parametrize(("size", "ratio"), [((20, 30), (2.0, 3.0)), ((20, 30), (0.2, 0.4))])
def test_a_box_that_never_fits_falls_back_to_the_centre(size, ratio):
    theirs = transforms.RandomResizedCrop.get_params(torch.empty(1, *size), (1.0, 1.0), ratio)
    ours = warps.draw_boxes(5, *size, (1.0, 1.0), ratio, generator())
    assert ours.tolist() == [list(theirs)] * 5


@pytest.mark.parametrize("shape", [(28, 28), (20, 33), (40, 7)])
def test_patches_are_drawn_as_torchvision_draws_them(shape):
    torch.manual_seed(0)
    image, scale, ratio = torch.ones(1, *shape), (0.02, 0.33), (0.3, 3.3)
    theirs = []
    for _ in range(DRAWS):
        top, left, height, width, _ = transforms.RandomErasing.get_params(image, scale, ratio, [0])
        whole = (height, width) == shape  # no box fits: nothing is erased
        theirs.append([top, left, 0 if whole else height, 0 if whole else width])
    ours = erasing.draw_patches(DRAWS, *shape, scale, ratio, generator())
    ours = ours * (ours[:, 2:3] > 0)
    theirs = torch.tensor(theirs)
    theirs = theirs * (theirs[:, 2:3] > 0)
    same_distribution(ours, theirs)
    same_distribution((ours[:, 2] * ours[:, 3])[:, None], (theirs[:, 2] * theirs[:, 3])[:, None])
    assert (ours[:, 0] + ours[:, 2] <= shape[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= shape[1]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erasing_blackens_one_rectangle_and_leaves_the_rest(dtype):
    images = (torch.rand(400, 3, 20, 28, generator=generator()) * 200 + 50).to(torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    for spec, share in (("erasing:0.7", 0.7), ("erasing", 0.5)):
        out = build_augment(spec)(images, generator())
        assert out.dtype == dtype
        black = (out == 0).all(1)
        assert torch.equal(torch.where(black[:, None], 0, images), out)
        assert abs(black.flatten(1).any(1).float().mean() - share) < 0.08
        for mask in black[black.flatten(1).any(1)]:
            rows, columns = mask.any(1), mask.any(0)
            assert torch.equal(mask, rows[:, None] & columns[None])
            for line in (rows, columns):  # without a gap
                assert line.int().diff().abs().sum() <= 2


def test_cutout_blackens_a_square_about_any_pixel_even_over_the_border():
    images = torch.full((4000, 1, 12, 16), 9, dtype=torch.uint8)
    black = (build_augment("cutout:0.5")(images, generator()) == 0)[:, 0]
    assert black.sum((1, 2)).max() == 36
    # The centre is uniform: the share of squares over each pixel, counted out.
    truth = torch.zeros(12, 16)
    for top, left in itertools.product(range(12), range(16)):
        truth[max(0, top - 3) : top + 3, max(0, left - 3) : left + 3] += 1 / (12 * 16)
    assert (black.float().mean(0) - truth).abs().max() < 5 * 0.5 / math.sqrt(4000)


def test_crop_offsets_are_uniform():
    marked = torch.zeros(5000, 1, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 4] = 255
    place = build_augment("crop:2")(marked, generator()).flatten(1).int().argmax(1)
    _, counts = place.unique(return_counts=True)
    assert len(counts) == 25
    assert stats.chisquare(counts.numpy()).pvalue > P_VALUE


@pytest.mark.parametrize(
    ("spec", "truth"),
    [
        (
            "perspective+rotation:10",
            [transforms.RandomPerspective(), transforms.RandomRotation(10)],
        ),
        (
            "rotation:10+resized-crop:0.5,1",
            [
                transforms.RandomRotation(10),
                transforms.RandomResizedCrop(32, (0.5, 1.0), antialias=True),
            ],
        ),
    ],
)
def test_whole_recipes_have_torchvisions_mean_and_spread(spec, truth):
    torch.manual_seed(0)
    count = 1500
    image = smooth()[0]
    theirs = torch.stack([transforms.Compose(truth)(image) for _ in range(count)])
    ours = build_augment(spec)(image.expand(count, -1, -1, -1), generator())
    # Five standard errors of the difference of two means of values in 0..1.
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 5 * 0.5 * math.sqrt(2 / count)
    assert abs(ours.std(0).mean() - theirs.std(0).mean()) < 0.01


# --- batches, merging, determinism ----------------------------------------------------------------

RANDOM_SPECS = [
    "perspective:0.5,1",
    "rotation:30",
    "affine:30,0.2",
    "resized-crop:0.3,1",
    "crop:4",
    "erasing:1",
    "cutout:0.4",
    "brightness:0.5",
    "contrast:0.5",
    "perspective+rotation:10+flip+crop:4+contrast:0.3",
]


def build_step(text: str) -> warps.Warp:
    step = augment._parse_step(text)
    assert isinstance(step, warps.Warp)
    return step


@pytest.mark.parametrize("spec", RANDOM_SPECS)
def test_every_image_gets_its_own_draw(spec):
    one = noise(batch=1)
    out = build_augment(spec)(one.expand(6, -1, -1, -1), generator())
    for a, b in itertools.combinations(out, 2):
        assert not torch.equal(a, b)


def test_draws_of_neighbours_are_uncorrelated():
    corners = warps.draw_corners(DRAWS, 64, 64, 0.5, generator())[:, 0, 0]
    assert stats.pearsonr(corners[:-1].numpy(), corners[1:].numpy()).pvalue > P_VALUE


@pytest.mark.parametrize("spec", RANDOM_SPECS)
def test_results_depend_on_the_generator_alone(spec):
    images = noise()
    before = images.clone()
    state = torch.get_rng_state()
    out = build_augment(spec)(images, generator(1))
    torch.manual_seed(123)
    assert torch.equal(out, build_augment(spec)(images, generator(1)))
    assert not torch.equal(out, build_augment(spec)(images, generator(2)))
    torch.set_rng_state(state)
    build_augment(spec)(images, generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("spec", RANDOM_SPECS)
def test_output_keeps_shape_and_range(spec):
    out = build_augment(spec)(noise(), generator())
    assert out.shape == (8, 3, 20, 28)
    if out.dtype != torch.uint8:
        assert out.dtype == torch.float32
        assert out.min() >= 0
        assert out.max() <= 1 + 1e-6


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(
        [
            "none",
            "rotation:0",
            "affine:0,0",
            "perspective:0",
            "perspective:0.5,0",
            "crop:0",
            "flip:0",
            "vertical-flip:0",
            "erasing:0",
            "cutout:0",
            "brightness:0",
            "contrast:0",
            "rotation:0+crop:0+flip:0",
        ]
    ),
)
def test_zero_strength_is_the_identity(shape, spec):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    assert torch.equal(build_augment(spec)(images, generator()), images)


@pytest.mark.parametrize(
    ("spec", "samplings"),
    [
        ("perspective+rotation:10", 1),
        ("perspective+resized-crop:0.8,1", 1),
        ("perspective+rotation:10+resized-crop:0.8,1", 2),
        ("rotation:10+resized-crop:0.8,1", 2),
        ("rotation:40+perspective", 2),
        ("resized-crop:0.3,1+perspective", 2),
        ("resized-crop:0.3,1+rotation:40", 1),
        ("rotation:40+affine:40,0.2", 1),
        ("rotation:10+flip+resized-crop", 2),
    ],
)
def test_steps_merge_into_one_warp_only_where_nothing_lost_comes_back(monkeypatch, spec, samplings):
    images, calls = smooth(32, 64), []
    sampled = warps._warp
    monkeypatch.setattr(warps, "_warp", lambda *a: calls.append(1) or sampled(*a))
    merged = build_augment(spec)(images, generator())
    assert len(calls) == samplings
    shared, apart = generator(), images
    for text in spec.split("+"):
        apart = augment._parse_step(text)(apart, shared)
    if spec == "perspective+resized-crop:0.8,1":
        # Interpolating once instead of twice changes edges and fine detail, nothing else.
        assert (merged - apart).abs().mean() < 0.01
    else:  # nearest pixels of the picture before them: the same picture
        torch.testing.assert_close(merged, apart, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("spec", "step"),
    [
        ("rand-augment:3,12", v2.RandAugment(3, 12, interpolation=BILINEAR)),
        ("trivial-augment", v2.TrivialAugmentWide(interpolation=BILINEAR)),
        ("color-jitter:0.5,0.4,0.3,0.2", v2.ColorJitter(0.5, 0.4, 0.3, 0.2)),
    ],
)
def test_policies_are_torchvisions_with_one_draw_per_image(spec, step, dtype, channels):
    images = noise(1, channels).expand(12, -1, -1, -1)
    images = images / 255 if dtype.is_floating_point else images
    state = torch.get_rng_state()
    made = build_augment(spec)(images, generator(4))
    assert torch.equal(torch.get_rng_state(), state)  # the global stream is as it was
    assert torch.equal(made, build_augment(spec)(images, generator(4)))
    assert (made.dtype, made.shape) == (images.dtype, images.shape)
    assert len({image.numpy().tobytes() for image in made}) >= 8
    seed = torch.randint(2**62, (), generator=generator(4))
    torch.manual_seed(int(seed))
    assert torch.equal(made, torch.stack([step(image) for image in images]))


def test_every_row_of_the_table_works_by_its_name():
    for name in AUGMENTATIONS:
        text = f"{name}:0.5" if name in ("rotation", "affine", "brightness", "contrast") else name
        text = "zoom-crop:9,8" if name == "zoom-crop" else text
        assert build_augment(text)(noise(), generator()).shape == (8, 3, 20, 28)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rotatoin:10", "did you mean 'rotation'"),
        ("rotation", "'rotation:degrees', got 'rotation'"),
        ("rotation:ten", "takes numbers as 'rotation:degrees'"),
        ("rotation:1,2", "takes numbers as 'rotation:degrees'"),
        ("rotation:nan", "degrees must be in"),
        ("rotation:200", "degrees must be in"),
        ("perspective:2", "distortion must be in"),
        ("perspective:0.5,2", "p must be in"),
        ("resized-crop:0.9,0.5", "0 < low <= high <= 1"),
        ("resized-crop:0.5,1,0,1", "ratios must satisfy"),
        ("zoom-crop:8,9", "whole large >= small > 0"),
        ("zoom-crop:9.5,9", "whole large >= small > 0"),
        ("crop:1.5", "integer >= 0"),
        ("crop:inf", "integer >= 0"),
        ("crop:nan", "integer >= 0"),
        ("crop:-1", "integer >= 0"),
        ("color-jitter:0.1,0.1,0.1,0.6", "hue must be in [0, 0.5]"),
        ("color-jitter:-1", "brightness must be >= 0"),
        ("rand-augment:2,31", "magnitude one from 0 to 30"),
        ("rand-augment:1.5", "num_ops must be an integer"),
        ("trivial-augment:1", "takes numbers as"),
        ("flip:2", "flip: p must be in"),
        ("erasing:2", "erasing: p must be in"),
        ("erasing:1,0.5,0.1", "erasing: scales must satisfy"),
        ("erasing:1,0.1,0.2,0,1", "erasing: ratios must satisfy"),
        ("cutout:-1", "cutout: share must be in"),
        ("cutout:nan", "cutout: share must be in"),
        ("original:resize:230,230", "reproduce --protocol paper' alone applies"),
        ("brightness:-1", "must be >= 0"),
        ("flip+", "unknown augmentation ''"),
        ("none+flip", "unknown augmentation 'none'"),
        ("", "unknown augmentation ''"),
    ],
)
def test_wrong_specs_are_refused_in_one_sentence(spec, message):
    with pytest.raises(InputError) as caught:
        build_augment(spec)
    assert message in str(caught.value)
