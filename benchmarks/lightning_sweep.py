"""The jobs of sweep.py as a multirun of Hydra with Lightning and W&B, offline.

    python lightning_sweep.py DIGITS -m learning_rate=0.001,0.01 seed=0,1

DIGITS is runner's digits.csv.gz. It needs lightning, hydra-core and wandb, none of
which imports runner: sweep.py calls it with another Python.
"""

import gzip
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import hydra
import lightning
import numpy as np
import torch
import wandb
from hydra.core.config_store import ConfigStore
from lightning.pytorch.loggers import WandbLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES, BATCH, EPOCHS = 1437, 64, 20


@dataclass
class Config:
    learning_rate: float = 0.001
    seed: int = 0


ConfigStore.instance().store(name="config", node=Config)


class Digits(lightning.LightningModule):
    def __init__(self, learning_rate: float):
        super().__init__()
        self.save_hyperparameters()
        sizes = (64, 128, 64, 10)
        layers = [nn.Linear(i, o) for i, o in pairwise(sizes)]
        self.model = nn.Sequential(
            layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]
        )

    def training_step(self, batch, _):
        logits = self.model(batch[0])
        loss = cross_entropy(logits, batch[1])
        accuracy = (logits.argmax(-1) == batch[1]).float().mean()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy})
        return loss

    def validation_step(self, batch, _):
        logits = self.model(batch[0])
        accuracy = (logits.argmax(-1) == batch[1]).float().mean()
        loss = cross_entropy(logits, batch[1])
        self.log_dict({"validation/loss": loss, "validation/accuracy": accuracy})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams["learning_rate"])


def loaders() -> tuple[DataLoader, DataLoader]:
    with gzip.open(DIGITS, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    table = table[np.random.default_rng(0).permutation(len(table))]
    inputs = torch.tensor(table[:, :64] / 16, dtype=torch.float32)
    labels = torch.tensor(table[:, 64], dtype=torch.int64)
    train = TensorDataset(inputs[:EXAMPLES], labels[:EXAMPLES])
    other = TensorDataset(inputs[EXAMPLES:], labels[EXAMPLES:])
    shuffled = DataLoader(train, BATCH, shuffle=True, drop_last=True)
    return shuffled, DataLoader(other, BATCH)


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(cfg: Config) -> float:
    started = time.perf_counter()
    lightning.seed_everything(cfg.seed, verbose=False)
    folder = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        log_every_n_steps=10,
        logger=WandbLogger(save_dir=folder, offline=True),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(cfg.learning_rate), *loaders())
    wandb.finish()
    print("seconds of a job:", time.perf_counter() - started, flush=True)
    return float(trainer.callback_metrics["validation/loss"])


if __name__ == "__main__":
    DIGITS = sys.argv.pop(1)
    main()
