"""Trees by their dotted keys."""

from hypothesis import given
from hypothesis import strategies as st

from runner.trees import differences, flatten

_names = st.text("abcXY_", min_size=1, max_size=5)
_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab.é", max_size=5)
    | st.lists(st.integers(0, 9), max_size=3)
)
_trees = st.dictionaries(
    _names, st.recursive(_leaves, lambda t: st.dictionaries(_names, t, max_size=3))
)


@given(_trees)
def test_flatten_loses_nothing(tree):
    flat = flatten(tree)
    rebuilt: dict = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        node = rebuilt
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value

    def expected(node):
        if isinstance(node, dict) and node:
            return {k: expected(v) for k, v in node.items()}
        return node

    assert rebuilt == {k: expected(v) for k, v in tree.items()}


TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(TREES, TREES)
def test_differences_are_empty_just_for_equal_trees(one, other):
    assert (differences(one, other) == []) == (one == other or both_empty(one, other))
    assert differences(one, one) == []


def both_empty(one, other):
    """A key that isn't there and one that is null are the same to a configuration."""

    def pruned(tree):
        if not isinstance(tree, dict):
            return tree
        return {k: pruned(v) for k, v in tree.items() if v is not None}

    return pruned(one) == pruned(other)
