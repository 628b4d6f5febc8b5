"""Each of a run's three seeds changes what it is for, and nothing else."""

import jax
import numpy as np
import pytest


def facts(run):
    state = run.spec.pipeline.init(run.init_key, 0.1, run.values.hyperparameters)
    return {
        "init": np.asarray(jax.tree.leaves(state.params)[1]).tolist(),
        "order": run.order.indices_at(0).tolist(),
        "step": jax.random.key_data(run.values.key).tolist(),
    }


@pytest.mark.parametrize("name", ["init", "order", "step"])
def test_one_seed_changes_one_thing(name, built):
    plain, changed = facts(built("seed=3")), facts(built("seed=3", f"seeds.{name}=4"))
    assert {k for k in plain if plain[k] != changed[k]} == {name}
    assert changed[name] == facts(built("seed=4"))[name]


def test_all_three_make_another_seed(built):
    given = [f"seeds.{name}=4" for name in ("init", "order", "step")]
    assert facts(built("seed=3", *given)) == facts(built("seed=4"))
