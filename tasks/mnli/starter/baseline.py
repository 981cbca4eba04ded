"""Baseline: TF-IDF of the words of either sentence, into logistic regression. It sees no relation between the two.

Reads the data from $DATA_DIR (default /data) and writes submission.csv.
"""

import json
import os
from pathlib import Path

from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

DATA = Path(os.environ.get("DATA_DIR", "/data"))
SEED = int(os.environ.get("MLGYM_SEED", "0"))


def read(name):
    """A list of dictionaries, one per line."""
    with open(DATA / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main():
    train, test = read("train.jsonl"), read("test.jsonl")
    parts = []
    for side in ("premise", "hypothesis"):
        words = TfidfVectorizer(max_features=50000)
        known = words.fit_transform(pair[side] for pair in train)
        parts.append((known, words.transform(pair[side] for pair in test)))
    known, unknown = (hstack(part).tocsr() for part in zip(*parts, strict=True))
    labels = [pair["label"] for pair in train]
    model = LogisticRegression(max_iter=300, random_state=SEED).fit(known, labels)
    print(f"trained on {len(train)} pairs, accuracy on them {model.score(known, labels):.3f}")
    predicted = model.predict(unknown)
    with open("submission.csv", "w") as file:
        file.write("id,label\n")
        file.writelines(f"{pair['id']},{label}\n" for pair, label in zip(test, predicted, strict=True))
    print(f"wrote submission.csv with {len(test)} predictions")


if __name__ == "__main__":
    main()
