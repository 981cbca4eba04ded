"""The reference solution: least squares."""

import json
import os

import numpy as np

table = np.loadtxt(os.environ.get("DATA_DIR", "/data") + "/train.csv", delimiter=",")
weights, *_ = np.linalg.lstsq(table[:, :-1], table[:, -1], rcond=None)
with open("weights.json", "w") as out:
    json.dump(weights.tolist(), out)
