"""`sweep=optuna`: Hydra's Optuna sweeper, whose searches can be continued.

Hydra imports this at every start, so it imports nothing heavy.
"""

import contextlib

with contextlib.suppress(ImportError):  # the extra `optuna`
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

    class SearchSweeper(OptunaSweeper):
        """Continues the search of the same command, with what it has found."""

        def sweep(self, arguments: list[str]) -> None:
            """Run all trials that are left."""
            from runner.cli import job
            from runner.sweep.optuna import continued

            launcher = self.sweeper.launcher
            if getattr(launcher, "task_function", job) is not job:  # another program's
                return super().sweep(arguments)
            with continued(self.sweeper, arguments):
                return super().sweep(arguments)
