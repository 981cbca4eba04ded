"""Baseline: train the small GPT of model.py for a fixed number of steps at a constant learning rate.

Reads the data from $DATA_DIR (default /data); writes weights.safetensors and config.json beside model.py.
Usage: python baseline.py [steps]
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from model import DEVICE, GPT
from safetensors.torch import save_file
from torch.nn import functional

DATA = Path(os.environ.get("DATA_DIR", "/data"))
SEED = int(os.environ.get("MLGYM_SEED", "0"))
SMALL = {"context": 64, "layers": 2, "width": 64, "heads": 4}
SMALL_TRAINING = {"steps": 1200, "batch": 16, "rate": 3e-3}
LARGE = {"context": 512, "layers": 6, "width": 384, "heads": 6}
LARGE_TRAINING = {"steps": 1000, "batch": 64, "rate": 6e-4}


def main():
    torch.manual_seed(SEED)
    info = json.loads((DATA / "info.json").read_text())
    shape, training = (SMALL, SMALL_TRAINING) if info["vocab"] == 256 else (LARGE, LARGE_TRAINING)
    config, steps = {"vocab": info["vocab"], **shape}, int(sys.argv[1]) if len(sys.argv) > 1 else training["steps"]
    text = np.memmap(DATA / "train.bin", dtype=info["dtype"], mode="r")
    network = GPT(**config).to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters(), training["rate"], betas=(0.9, 0.98), weight_decay=0.01)
    span, started, losses = config["context"] + 1, time.monotonic(), []
    for step in range(1, steps + 1):
        starts = torch.randint(0, len(text) - span + 1, (training["batch"],)).tolist()
        windows = np.stack([text[start : start + span] for start in starts]).astype(np.int64)
        tokens = torch.from_numpy(windows).to(DEVICE)
        with torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda"):
            scores = network(tokens[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1).float(), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % max(1, steps // 10) == 0:
            recent = np.mean(losses[-50:])
            print(f"step {step}/{steps}: loss {recent:.3f} nats, {recent / np.log(2):.3f} bits per token; "
                  f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    # Half precision makes the file half as large; model.py turns the weights into float32 again.
    weights = {name: weight.detach().to("cpu", torch.bfloat16) for name, weight in network.state_dict().items()}
    save_file(weights, "weights.safetensors")
    Path("config.json").write_text(json.dumps(config) + "\n")
    print(f"wrote weights.safetensors and config.json: {sum(w.numel() for w in weights.values())} weights")


if __name__ == "__main__":
    main()
