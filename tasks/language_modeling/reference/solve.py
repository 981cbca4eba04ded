"""Reference: count which byte follows which bytes, up to 12 of them.

Reads the data from $DATA_DIR (default /data); writes counts.npz beside model.py.
"""

import os
from pathlib import Path

import numpy as np
from model import FOLLOWER, ORDERS, contexts

DATA = Path(os.environ.get("DATA_DIR", "/data"))
SINGLE = 6
"""Up to this order everything is kept; above, contexts seen once only are dropped: they would fill the file."""


def main():
    text, longest = np.fromfile(DATA / "train.bin", np.uint8), max(ORDERS)
    columns = [text[longest - 1 - back : len(text) - 1 - back] for back in range(longest)]
    follower, tables = text[longest:].astype(np.uint64), {}
    for order, code in contexts(columns):
        entries, counts = np.unique(code | follower, return_counts=True)
        if order > SINGLE:
            keys, place = np.unique(entries & ~FOLLOWER, return_inverse=True)
            kept = np.bincount(place, counts, len(keys))[place] > 1
            entries, counts = entries[kept], counts[kept]
        tables[f"entries{order}"], tables[f"counts{order}"] = entries, np.minimum(counts, 2**32 - 1).astype(np.uint32)
        print(f"order {order}: {len(entries)} entries", flush=True)
    np.savez_compressed("counts.npz", **tables)
    print(f"wrote counts.npz: {Path('counts.npz').stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
