"""Convolutions as patches and a matrix product, in any function that has some.

XLA has a convolution of its own, which is slow inside a loop on CPU (jax #12868) and
under `vmap` over kernels everywhere (jax #13800, #26266). Matrix products are not.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

NAME = "conv_general_dilated"
# Each slice is an operation of its own. A kernel of 11 x 11 has 121 positions; a
# convolution that needs more slices than this is left to XLA.
MOST_SLICES = 128


def as_patches(function: Callable) -> Callable:
    """`function` with its convolutions as patches and a matrix product.

    Those of a gradient are replaced too, if `function` computes one, whichever
    framework they come from. The mathematics are the same; the rounding isn't. Patches
    take as many times the memory of an input as the kernel has positions.
    """

    @functools.wraps(function)
    def rewritten(*arguments):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = jaxpr_as_fun(_rewritten(traced))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rewritten


def has_convolution(jaxpr: Jaxpr) -> bool:
    """Whether `jaxpr`, or one that it calls, has a convolution."""
    return any(eqn.primitive.name == NAME for eqn in equations(jaxpr))


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Those of `jaxpr` and of all that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for called in inner(eqn):
            yield from equations(called)


def inner(eqn: JaxprEqn) -> list[Jaxpr]:
    """The jaxprs that `eqn` calls."""
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
    return [getattr(value, "jaxpr", value) for value in filter(_is_jaxpr, values)]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def _rewritten(value: Any) -> Any:
    """`value`, without convolutions if it is a jaxpr."""
    if isinstance(value, Jaxpr):  # in JAX 0.12, a closed one too
        if not has_convolution(value):
            return value
        return value.replace(eqns=[_rewritten_eqn(eqn) for eqn in value.eqns])
    if isinstance(value, ClosedJaxpr):
        return value.replace(jaxpr=_rewritten(value.jaxpr))
    return value


def _rewritten_eqn(eqn: JaxprEqn) -> JaxprEqn:
    """What takes the place of `eqn`, with the same arguments and results."""
    if eqn.primitive.name != NAME:
        params = jax.tree.map(_rewritten, eqn.params, is_leaf=_is_jaxpr)
        return eqn.replace(params=params)
    x, kernel, out = (
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)  # pyright: ignore
        for v in (*eqn.invars, *eqn.outvars)
    )
    way, slices = _way(eqn.params, x.shape, kernel.shape, out.shape)
    is_empty = 0 in (*x.shape, *kernel.shape, *out.shape)
    if slices > MOST_SLICES or is_empty or len(out.shape) > 5:
        return eqn
    convolve = functools.partial(_convolved, eqn.params, way, out)
    (made,) = jax.make_jaxpr(jax.jit(convolve))(x, kernel).eqns
    return made.replace(invars=eqn.invars, outvars=eqn.outvars)


def _way(
    params: dict[str, Any], x: tuple, kernel: tuple, out: tuple
) -> tuple[str, int]:
    """The best way to cut slices for a convolution of these shapes, and their number.

    - "kernel": for each position of the kernel, all that it is multiplied by. As
      further features, these are the usual patches.
    - "output": for each position of the output, all that it depends on, as further
      examples. They are fewer where the kernel is larger than the output, as in the
      gradient of a kernel.
    - "product": like "kernel", but the product comes first, and its slices are added
      up. They are smaller where it has fewer features than the input, as in the
      gradient of an input.
    """
    lhs, rhs, result = params["dimension_numbers"]
    taps = math.prod(kernel[i] for i in rhs[2:])
    positions = math.prod(out[i] for i in result[2:])
    if positions < taps:
        return "output", positions
    patches = positions * x[lhs[1]] * params["batch_group_count"]
    product = math.prod(x[i] for i in lhs[2:]) * out[result[1]]
    return "product" if product < patches else "kernel", taps


class _Slices(NamedTuple):
    """The slices of a padded array, in each spatial dimension.

    Attributes:
      starts: their number.
      sizes: the positions in a slice.
      steps: from one slice to the next.
      strides: from one position in a slice to the next.
      padding, dilation: zeros around the array, and positions from one element to the
        next.
    """

    starts: Sequence[int]
    sizes: Sequence[int]
    steps: Sequence[int]
    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]

    def of(
        self, parts: Iterable[jax.Array], spatial: Sequence[int]
    ) -> Iterator[jax.Array]:
        """The first slice of the first of the `parts`, and so on."""
        starts = itertools.product(*map(range, self.starts))
        for start, part in zip(starts, parts, strict=False):  # parts may be endless
            pads, cuts = [(0, 0, 0)] * part.ndim, [slice(None)] * part.ndim
            for i, axis in enumerate(spatial):
                pads[axis] = *self.padding[i], self.dilation[i] - 1
                first = start[i] * self.steps[i]
                stop = first + (self.sizes[i] - 1) * self.strides[i] + 1
                cuts[axis] = slice(first, stop, self.strides[i])
            yield lax.pad(part, part.dtype.type(0), pads)[tuple(cuts)]


def _convolved(
    params: dict[str, Any],
    way: str,
    out: jax.ShapeDtypeStruct,
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """What `lax.conv_general_dilated` with `params` gives, an array like `out`."""
    lhs, rhs, result = params["dimension_numbers"]
    starts = [kernel.shape[i] for i in rhs[2:]]
    sizes = [out.shape[i] for i in result[2:]]
    steps, strides = params["rhs_dilation"], params["window_strides"]
    if way == "output":
        starts, sizes, steps, strides = sizes, starts, strides, steps
    slices = _Slices(
        starts, sizes, steps, strides, params["padding"], params["lhs_dilation"]
    )

    # Dimensions by letters: n examples, c features of the input and o of the output, g
    # their groups, x to z the slices, u to w what is in one.
    cut, within = "xyz"[: len(starts)], "uvw"[: len(sizes)]
    by_batch, by_feature = params["batch_group_count"], params["feature_group_count"]
    groups = by_batch * by_feature  # one of them is 1
    n = "gn" if by_batch > 1 else "n"
    c = "gc" if by_feature > 1 else "c"
    o = "go" if groups > 1 else "o"
    grid = [x.shape[i] for i in lhs[2:]] if way == "product" else sizes
    length = dict(zip(cut + within, (*starts, *grid), strict=True)) | {
        "n": x.shape[lhs[0]] // by_batch,
        "c": kernel.shape[rhs[1]],
        "o": kernel.shape[rhs[0]] // groups,
        "g": groups,
    }

    def multiplied(x, *letters, dtype=params["preferred_element_type"]):
        """x times the kernel; letters of both and of the result as (_, _, *spatial)."""
        ordered = [
            [of for _, of in sorted(zip(spec, given, strict=True))]
            for spec, given in zip((lhs, rhs, result), letters, strict=True)
        ]
        precision = params["precision"]
        found = _contracted(x, kernel, ordered, length, precision, dtype)
        return found.reshape([math.prod(length[k] for k in of) for of in ordered[2]])

    if way == "product":
        dtype = out.dtype
        if jnp.issubdtype(dtype, jnp.floating):
            # Sums are rounded once, like those within a product.
            dtype = jnp.promote_types(dtype, jnp.float32)
        last = "n", cut + o, *within
        found = multiplied(x, (n, c, *within), (o, "c", *cut), last, dtype=dtype)
        parts = jnp.split(found, math.prod(starts), result[1])
        found = functools.reduce(jnp.add, slices.of(parts, result[2:]))
    elif way == "kernel":
        patches = jnp.concatenate([*slices.of(itertools.repeat(x), lhs[2:])], lhs[1])
        last = "n", o, *within
        found = multiplied(patches, (n, cut + c, *within), (o, "c", *cut), last)
    else:
        patches = jnp.concatenate([*slices.of(itertools.repeat(x), lhs[2:])], lhs[0])
        last = "n", o, *cut
        found = multiplied(patches, (cut + n, c, *within), (o, "c", *within), last)
    return found.astype(out.dtype)


def _contracted(
    x: jax.Array,
    y: jax.Array,
    letters: Sequence[Sequence[str]],
    length: dict[str, int],
    precision: Any,
    dtype: Any,
) -> jax.Array:
    """Like `jnp.einsum`, whose order of contracted dimensions makes XLA copy `x`.

    Args:
      x, y: the factors.
      letters: of x, y and the result, those of each dimension.
      length: by letter.
      precision, dtype: of the product.
    """
    a, b, c = map("".join, letters)
    shared = [k for k in a if k in b]
    inner, both = [k for k in shared if k not in c], [k for k in shared if k in c]
    product = lax.dot_general(
        x.reshape([length[k] for k in a]),
        y.reshape([length[k] for k in b]),
        (
            ([a.index(k) for k in inner], [b.index(k) for k in inner]),
            ([a.index(k) for k in both], [b.index(k) for k in both]),
        ),
        precision=precision,
        preferred_element_type=dtype,
    )
    names = both + [k for k in a + b if k not in shared]
    return product.transpose([names.index(k) for k in c])
