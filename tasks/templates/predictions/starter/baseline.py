"""The baseline: points near the middle are of class 1, by one coordinate only."""

import csv
import os

DATA = os.environ.get("DATA_DIR", "/data")


def read(name):
    """The rows of a table."""
    with open(f"{DATA}/{name}") as file:
        return list(csv.DictReader(file))


def right(limit, rows):
    """How many training points a limit of |x| classifies correctly."""
    return sum((abs(float(row["x"])) < limit) == (row["label"] == "1") for row in rows)


train = read("train.csv")
best = max((step / 20 for step in range(1, 60)), key=lambda limit: right(limit, train))
with open("submission.csv", "w") as out:
    out.write("id,label\n")
    out.writelines(f"{row['id']},{int(abs(float(row['x'])) < best)}\n" for row in read("test.csv"))
print(f"training accuracy {right(best, train) / len(train):.3f}, wrote submission.csv")
