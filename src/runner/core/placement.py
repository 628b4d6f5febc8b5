"""How the arrays of a state are split over the axes of a mesh."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import PartitionSpec

from runner.errors import ConfigError
from runner.trees import by_path, is_found, is_pattern, path_text

# The axes of each dimension of an array; () where it is whole.
Split = tuple[tuple[str, ...], ...]


class Axes(NamedTuple):
    """The number of devices along each axis of a mesh.

    `data` and `fsdp` split the batches. Parameters that `model` splits stay so where a
    forward pass reads them: each device computes its part of a layer.
    """

    data: int = 1
    fsdp: int = 1
    model: int = 1

    def present(self, asked: Iterable[Any]) -> Split:
        """What `asked` names for each dimension, without what has only one device.

        Args:
          asked: for each dimension None, a name, or a tuple of names, which need not be
            axes.
        """
        several = {axis for axis, size in self._asdict().items() if size > 1}
        return tuple(
            tuple(axis for axis in names if axis in several)
            for names in map(_names, asked)
        )

    def divide(self, shape: tuple[int, ...], split: Split) -> bool:
        """Whether each dimension of `shape` can be split like that."""
        sizes = self._asdict()
        return all(
            size % math.prod(sizes[axis] for axis in axes) == 0
            for size, axes in zip(shape, split, strict=False)
        )


class Placement(NamedTuple):
    """Which axes split an array: as `rules` say, else `metadata`, else `largest`.

    The first two go by paths, which end like those of the parameters in the optimizer's
    state too: moments are placed like parameters. Axes of one device split nothing, and
    a rule or metadata that name only those are passed over.

    Attributes:
      axes: those of the mesh.
      min_shard_elements: the smallest size of an array that `largest` splits.
      rules: pairs of a pattern and the axes of the arrays whose paths it matches.
      metadata: path, shape and axes of the parameters that the model itself places.
    """

    axes: Axes = Axes()
    min_shard_elements: int = 1
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    metadata: tuple[tuple[str, tuple[int, ...], Split], ...] = ()

    @property
    def splits(self) -> bool:
        """Whether it may split anything at all."""
        ruled = any(any(self.axes.present(asked)) for _, asked in self.rules)
        return self.axes.fsdp > 1 or ruled or bool(self.metadata)

    def spec(self, path: Any, shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of the array of `shape` at a tree's `path`."""
        name = path_text(path)
        for rule in self.rules:
            if self._fits(rule, name, shape):
                found = self.axes.present(rule[1])
                return PartitionSpec(*found) if any(found) else PartitionSpec()
        for end, whole, found in self.metadata:
            if shape == whole and f"/{name}".endswith(f"/{end}"):
                return PartitionSpec(*found)
        return largest(shape, self.axes.fsdp, self.min_shard_elements)

    def _fits(self, rule: tuple, name: str, shape: tuple[int, ...]) -> bool:
        found = self.axes.present(rule[1])
        fits = self.axes.divide(shape, found) and any(found) == any(rule[1])
        return fits and _is_of(rule, name, shape)

    def with_metadata(self, partitioning: Mapping[str, tuple]) -> "Placement":
        """This, with what the model's own metadata ask for.

        Args:
          partitioning: that of `runner.core.pipeline.Pipeline`.

        Raises:
          ConfigError: a parameter can't be split as its metadata say, or the axis
            `model` has several devices, and neither they nor a rule use it.
        """
        metadata = []
        for path, (shape, asked) in partitioning.items():
            found = self.axes.present(asked)
            if any(found) and not any(self._fits(r, path, shape) for r in self.rules):
                _check(path, shape, tuple(asked), found, self.axes)
                metadata.append((path, shape, found))
        # The path of one parameter may be how that of another ends.
        metadata.sort(key=lambda placed: -len(placed[0]))
        used = {axis for _, asked in self.rules for axis in asked}
        used |= {axis for *_, found in metadata for axes in found for axis in axes}
        if self.axes.model > 1 and "model" not in used:
            others = ", ".join(unknown(partitioning))
            raise ConfigError(
                f"mesh.model={self.axes.model} splits nothing: no entry of mesh.rules "
                'names the axis model, as [["kernel",[null,model]]] does, nor does the '
                "model's own partitioning" + (others and f", which names {others}")
            )
        return self._replace(metadata=tuple(metadata))

    def check_rules(self, params: Any) -> None:
        """Refuse rules that place no parameter.

        Args:
          params: the parameters, or their shapes.

        Raises:
          ConfigError: names the rule and the parameters.
        """
        shapes = {path: x.shape for path, x in by_path(params).items()}
        for rule in self.rules:
            named = [item for item in shapes.items() if _is_of(rule, *item)]
            # Where nothing is split, the same rule may fit on another mesh.
            if any(self._fits(rule, *item) for item in named) or (
                named and not self.splits
            ):
                continue
            start = f"mesh.rules: {rule[0]!r} with the axes {list(rule[1])}"
            if named and any(rule[1]) and not any(self.axes.present(rule[1])):
                sizes = [f"mesh.{n}={self.axes._asdict()[n]}" for n in rule[1] if n]
                raise ConfigError(f"{start} splits nothing, since {', '.join(sizes)}")
            found = ", ".join(f"{path} {list(shape)}" for path, shape in shapes.items())
            sizes = " x ".join(f"{k} {v}" for k, v in self.axes._asdict().items())
            raise ConfigError(
                f"{start} fits none of the parameters {found} on a mesh of {sizes}"
            )


def _is_of(rule: tuple, name: str, shape: tuple[int, ...]) -> bool:
    """Whether `rule` is about the array of this name and shape."""
    return len(rule[1]) == len(shape) and is_found(rule[0], name)


def largest(shape: tuple[int, ...], fsdp: int, least: int) -> PartitionSpec:
    """The partition of an array over the axis `fsdp`, which has that many devices.

    An array of at least `least` elements is split along its largest dimension that
    `fsdp` divides, the first of equals. Any other is whole on every device.
    """
    divisible = [i for i, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < least or not divisible:
        return PartitionSpec()
    chosen = max(divisible, key=lambda i: shape[i])
    return PartitionSpec(*[None] * chosen, "fsdp")


def rules(given: Sequence[Any]) -> tuple:
    """`mesh.rules`, checked.

    Raises:
      ConfigError: names the rule.
    """
    found = []
    for rule in given:
        try:
            pattern, axes = rule
            named = [axis for axis in axes if axis is not None]
            if isinstance(axes, str) or set(named) - {*Axes._fields}:
                raise ValueError
            if not is_pattern(pattern):
                raise ValueError
            if len(set(named)) < len(named):
                raise ValueError
        except (TypeError, ValueError):
            raise ConfigError(
                f"mesh.rules: {rule} must be a regular expression and a list of axes, "
                f"null or {', '.join(Axes._fields)} for each dimension, none of them "
                "twice"
            ) from None
        found.append((pattern, tuple(axes)))
    return tuple(found)


def unknown(partitioning: Mapping[str, tuple]) -> list[str]:
    """The names in a model's own partitioning that no axis of a mesh has."""
    asked = {
        n for _, names in partitioning.values() for ns in names for n in _names(ns)
    }
    return sorted(asked - {*Axes._fields})


def _names(names: Any) -> tuple[str, ...]:
    """One entry of a PartitionSpec, of which None and UNCONSTRAINED name no axis."""
    if isinstance(names, str):
        return (names,)
    return names if isinstance(names, tuple) else ()


def _check(path: str, shape: tuple, asked: tuple, found: Split, axes: Axes) -> None:
    named = [axis for one in found for axis in one]
    if len(asked) > len(shape):
        rule = f"it has only {len(shape)} dimensions"
    elif len(set(named)) < len(named):
        rule = "an axis can split only one dimension"
    elif not axes.divide(shape, found):
        sizes = (f"mesh.{axis}={axes._asdict()[axis]}" for axis in named)
        rule = f"{' and '.join(sizes)} must divide what they split"
    else:
        return
    raise ConfigError(
        f"the model's own partitioning {list(asked)} of {path} {list(shape)}: {rule}; "
        "an entry of mesh.rules for it comes first"
    )
