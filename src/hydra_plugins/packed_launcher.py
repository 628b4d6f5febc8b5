"""`hydra/launcher=packed`: the jobs of a sweep as few compiled programs.

Hydra imports this at every start, so it imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn


@dataclass
class PackedLauncherConf:
    """`hydra.launcher`.

    strategy: vmap trains the members of a population side by side, loop one after the
      other through one compiled program, auto what is faster: see `train.choose`.
    max_members: of a population; auto is the fastest size that fits in memory.
    executor: inline trains the jobs here; submitit_slurm and submitit_local hand each
      population to a task with the settings in `cluster`; auto follows `cluster`.
    resume: continue the unfinished sweep of the same command in another folder, unless
      hydra.sweep.dir names one.
    """

    _target_: str = "hydra_plugins.packed_launcher.PackedLauncher"
    strategy: str = "auto"
    max_members: Any = "auto"
    executor: str = "auto"
    resume: bool = True


ConfigStore.instance().store(
    group="hydra/launcher", name="packed", node=PackedLauncherConf, provider="runner"
)


class PackedLauncher(BasicLauncher):
    """Hydra's own launcher, except that it hands runner's jobs to `runner.sweep`."""

    # So that a sweeper need not compose all jobs first to check them.
    composes_before_it_runs = True

    def __init__(
        self, strategy: str, max_members: Any, executor: str, resume: bool
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.max_members = max_members
        self.executor = executor
        self.resume = resume
        self.search: Any = None  # what sweep=optuna collects its jobs in

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; each has its own folder and fails on its own."""
        from runner.cli import job

        assert self.config is not None and self.hydra_context is not None
        if self.task_function is not job:
            return super().launch(job_overrides, initial_job_idx)
        from runner.sweep.launch import launch
        from runner.sweep.launcher import Launcher

        launcher = Launcher(
            self.hydra_context,
            self.config,
            job,
            self.strategy,
            self.max_members,
            self.executor,
            self.resume,
        )
        return launch(launcher, job_overrides, initial_job_idx, self.search)
