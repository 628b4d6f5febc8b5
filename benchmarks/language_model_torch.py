"""nanoGPT's smallest run in PyTorch: the seconds of its steps after the first.

    python language_model_torch.py TEXT STEPS

The model, optimizer and batches of https://github.com/karpathy/nanoGPT at 4 layers, 4
heads, width 128, without biases or dropout. It needs torch and numpy, not runner:
language_model.py calls it with another Python.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCH, BLOCK, WIDTH, HEADS, LAYERS = 12, 64, 128, 4, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1 = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm_2 = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        parts = self.qkv(self.norm_1(x)).split(WIDTH, dim=2)
        q, k, v = (y.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Model(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, vocabulary, bias=False)
        self.output.weight = self.embedding.weight
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions(torch.arange(BLOCK))
        return self.output(self.norm(self.blocks(x)))


def main() -> None:
    text = np.frombuffer(open(sys.argv[1], "rb").read(), np.uint8)
    found, tokens = np.unique(text, return_inverse=True)
    data = torch.from_numpy(tokens.astype(np.int64))
    model = Model(len(found))
    groups = [
        {"params": [w for w in model.parameters() if w.ndim > 1], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    started = 0.0
    for step in range(int(sys.argv[2]) + 1):
        if step == 1:
            started = time.perf_counter()
        first = torch.randint(len(data) - BLOCK, (BATCH,))
        windows = torch.stack([data[i : i + BLOCK + 1] for i in first])
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
