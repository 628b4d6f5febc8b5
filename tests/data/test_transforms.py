"""The shipped transforms, alone and in a compiled step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import misjudged
from runner.data.transforms import (
    cast,
    flip,
    normalize,
    pad_and_crop,
    scale,
    token_mask,
    transformed,
)
from runner.errors import ConfigError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 6, 5, 3), np.uint8)
LABELS = np.arange(64, dtype=np.int32)
AUGMENTED = (
    "data.transforms=[{_target_:runner.data.transforms.pad_and_crop,column:input,"
    "padding:1},{_target_:runner.data.transforms.flip,column:input},"
    "{_target_:runner.data.transforms.scale,column:input,subtract:0,divide:16}]"
)


def after(*transforms, key=KEY):
    batch = {"input": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    found = transformed(transforms, batch, key)
    assert found["label"] is batch["label"]  # and an integer still
    return np.asarray(found["input"])


def test_scaling_and_casting():
    scaled = after(scale(column="input", subtract=4, divide=2))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, (IMAGES.astype("f") - 4) / 2)
    mean, std = [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]
    by_channel = after(normalize(column="input", mean=mean, std=std))
    expected = (IMAGES - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(by_channel, expected, rtol=1e-6)
    assert after(cast(column="input", dtype="int32")).dtype == np.int32


@pytest.mark.parametrize(
    "transform,said",
    [
        (misjudged.nothing(), ": it returned None instead of a batch"),
        (misjudged.half(), ": it returned another number of examples than it was"),
    ],
)
def test_a_batch_is_one_and_keeps_its_size(transform, said):
    with pytest.raises(ConfigError, match=rf"data\.transforms\[1\]{said}"):
        after(cast(column="input", dtype="int32"), transform)


def test_flipping_and_shifting_move_whole_images_in_training_alone():
    for transform in (flip(column="input"), pad_and_crop(column="input", padding=1)):
        np.testing.assert_array_equal(after(transform, key=None), IMAGES)
        np.testing.assert_array_equal(after(transform), after(transform))
        other = after(transform, key=jax.random.key(1))
        assert (after(transform) != other).any()
    flipped = after(flip(column="input"))
    is_mirrored = (flipped == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    is_same = (flipped == IMAGES).all(axis=(1, 2, 3))
    assert (is_mirrored ^ is_same).all() and 10 < is_mirrored.sum() < 54
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    crops = np.stack(
        [padded[:, y : y + 6, x : x + 5] for y in range(3) for x in range(3)]
    )
    shifted = after(pad_and_crop(column="input", padding=1))
    found = (crops == shifted).all(axis=(2, 3, 4))
    assert found.any(axis=0).all() and (found.sum(axis=1) > 0).all()


def test_two_random_transforms_have_keys_of_their_own():
    twice = after(flip(column="input"), flip(column="input"))
    assert (twice != IMAGES).any()


def test_a_token_mask():
    tokens = jnp.array([[3, 1, 0], [0, 0, 2]])
    add = token_mask(column="tokens", mask="mask", padding=0)
    found = transformed([add], {"tokens": tokens}, None)["mask"]
    assert found.dtype == jnp.float32 and found.tolist() == [[1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "make,said",
    [
        (lambda: scale(column="x", subtract=0, divide=0), "scale.divide=0"),
        (lambda: normalize(column="x", mean=[1.0], std=[0.0]), r"std=\[0.0\]"),
        (lambda: pad_and_crop(column="x", padding=0), "padding=0"),
    ],
)
def test_a_mistake_is_one_message(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("make", [flip, partial(pad_and_crop, padding=1)])
def test_what_moves_pixels_refuses_what_is_no_image_before_it_is_compiled(make):
    with pytest.raises(ConfigError, match=r"needs images .* label has .* shape \(\)"):
        after(make(column="label"), key=None)


def test_a_type_that_isnt_there_is_one_message(built):
    cast = "data.transforms=[{_target_:runner.data.transforms.cast,column:input"
    with pytest.raises(ConfigError, match="'float23' not understood"):
        built(cast + ",dtype:float23}]")


def test_a_column_that_isnt_there_is_one_message(built):
    with pytest.raises(ConfigError, match=r"'image' is not a column of data=digits"):
        built(AUGMENTED.replace("column:input", "column:image"))


def test_they_are_the_same_on_any_mesh_and_feed_and_change_training(trained):
    length = ("train.steps=6", "train.epochs=null", "train.log_every_steps=1")
    plain = [row["train/loss"] for row in trained(*length)]
    one = [row["train/loss"] for row in trained(*length, AUGMENTED)]
    assert one != plain
    for other in ("mesh=data", "data.mode=memory"):
        rows = trained(*length, AUGMENTED, other)
        losses = [row["train/loss"] for row in rows]
        np.testing.assert_allclose(losses, one, rtol=1e-5)
