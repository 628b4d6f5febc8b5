"""Overrides that make models small, in one word for each value, and a test of them."""

import numpy as np

from runner.core.shapes import step_jaxpr

CONVNET = "runner.models.convnet."


def conv(features: int, size: int, stride: int = 1, padding: str = "SAME") -> str:
    return (
        f"{{_target_:{CONVNET}Conv,features:{features},kernel_size:{size},"
        f"stride:{stride},padding:{padding}}}"
    )


def pool(kind: str, size: int, stride: int, padding: str = "SAME") -> str:
    return (
        f"{{_target_:{CONVNET}Pool,kind:{kind},size:{size},stride:{stride},"
        f"padding:{padding}}}"
    )


def dense(features: int) -> str:
    return f"{{_target_:{CONVNET}Dense,features:{features}}}"


def convnet(*layers: str) -> str:
    return f"model.layers=[{','.join(layers)}]"


def small_convnet() -> str:
    """One layer of each kind, and both kinds of padding."""
    return convnet(
        conv(4, 3), pool("max", 2, 2), conv(6, 3, 2, "VALID"),
        pool("mean", 2, 1), dense(16),
    )  # fmt: skip


def check_patches(asked: tuple[str, ...], trained, built) -> None:
    """A model of convolutions learns the same with patches, and really has them."""
    losses = {}
    for form in ("native", "patches"):
        own = *asked, f"train.convolution={form}", "train.log_every_steps=1"
        losses[form] = [row["train/loss"] for row in trained(*own)]
        run = built(*own)
        found = "conv_general_dilated" in str(step_jaxpr(run.spec, run.values))
        assert found == (form == "native")
    np.testing.assert_allclose(losses["native"], losses["patches"], rtol=1e-4)
