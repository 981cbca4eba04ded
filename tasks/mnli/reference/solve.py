"""Reference: logistic regression on pairs of words, one from each sentence, and on the pattern the two make.

The pattern: words that both sentences have become letters in the order of the premise, and number words become
distances from the premise's number; what is left is the same for many pairs.
Reads the data from $DATA_DIR (default /data) and writes submission.csv.
"""

import json
import os
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

DATA = Path(os.environ.get("DATA_DIR", "/data"))
COUNTING = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
]  # fmt: skip
NUMBERS = {word: number for number, word in enumerate(COUNTING)}
GRAMMAR = {
    "a", "an", "the", "all", "most", "some", "no", "is", "are", "and", "than", "there", "in", "exactly", "at",
    "least", "more", "fewer",
}  # fmt: skip


def read(name):
    """A list of dictionaries, one per line."""
    with open(DATA / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def grammatical(words):
    """For each word whether it belongs to the grammar: function words, and what stands before "than"."""
    return [w in GRAMMAR or following == "than" for w, following in zip(words, [*words[1:], ""], strict=True)]


def pattern(premise, hypothesis):
    """Both sentences with shared words as letters, numbers as distances, unshared words as stars."""
    count = next((NUMBERS[word] for word in premise if word in NUMBERS), 0)
    letters, first, second = {}, [], []
    for word, plain in zip(premise, grammatical(premise), strict=True):
        if not plain and word not in NUMBERS:
            letters.setdefault(word, f"_{len(letters)}")
        first.append("#" if word in NUMBERS else letters.get(word, word))
    for word, plain in zip(hypothesis, grammatical(hypothesis), strict=True):
        distance = str(NUMBERS[word] - count) if word in NUMBERS else "*"
        second.append(word if plain else letters.get(word, distance))
    return first, second


def features(pair):
    """The features of a pair, as one string of tokens without spaces."""
    premise, hypothesis = pair["premise"].split(), pair["hypothesis"].split()
    first, second = pattern(premise, hypothesis)
    frame = "_".join(w for w in premise if w in GRAMMAR)
    tokens = ["whole:" + "_".join([*first, "/", *second]), "half:" + "_".join([frame, "/", *second])]
    tokens += [f"{a}|{b}" for a in premise for b in hypothesis if a != b]
    tokens += [f"only1:{a}" for a in premise if a not in hypothesis]
    tokens += [f"only2:{b}" for b in hypothesis if b not in premise]
    tokens += [f"both:{a}" for a in premise if a in hypothesis]
    tokens += [f"{frame}/{b}" for b in second]
    return " ".join(tokens)


def main():
    train, test = read("train.jsonl"), read("test.jsonl")
    words = CountVectorizer(token_pattern=r"\S+", lowercase=False, min_df=3, binary=True)
    known = words.fit_transform(features(pair) for pair in train)
    unknown = words.transform(features(pair) for pair in test)
    labels = [pair["label"] for pair in train]
    model = LogisticRegression(C=0.2, max_iter=100, tol=0.003).fit(known, labels)
    print(f"trained on {known.shape[0]} pairs with {known.shape[1]} features")
    predicted = model.predict(unknown)
    with open("submission.csv", "w") as file:
        file.write("id,label\n")
        file.writelines(f"{pair['id']},{label}\n" for pair, label in zip(test, predicted, strict=True))
    print(f"wrote submission.csv with {len(test)} predictions")


if __name__ == "__main__":
    main()
