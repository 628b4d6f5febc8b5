import sys

import pytest


@pytest.fixture(autouse=True)
def unchanged_plugins():
    """The plugins' modules are for other tests what they were.

    Hydra runs them again, in place, when it looks for plugins. Their classes would no
    longer be those of configurations made before, which then can't be pickled.
    """
    loaded = {
        name: (module, dict(vars(module)))
        for name, module in sys.modules.items()
        if name.startswith("hydra_plugins.")
    }
    yield
    for name, (module, content) in loaded.items():
        sys.modules[name] = module
        vars(module).update(content)
