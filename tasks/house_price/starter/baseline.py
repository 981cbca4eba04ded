"""Baseline: ridge regression on all columns as they are, categories one-hot.

Reads the data from $DATA_DIR (default /data) and writes submission.csv.
"""

import os
from pathlib import Path

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

DATA = Path(os.environ.get("DATA_DIR", "/data"))


def read(name):
    """A table; only an empty cell means unknown."""
    return pd.read_csv(DATA / name, keep_default_na=False, na_values=[""])


def main():
    train, test = read("train.csv"), read("test.csv")
    inputs, price = train.drop(columns=["id", "price"]).dropna(axis="columns", how="all"), train["price"]
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    names = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="unknown"), OneHotEncoder(handle_unknown="ignore")
    )
    prepare = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (names, make_column_selector(dtype_exclude="number")),
    )
    model = make_pipeline(prepare, Ridge(alpha=0.1)).fit(inputs, price)
    print(f"trained on {len(train)} houses, R2 on them {model.score(inputs, price):.3f}")
    predicted = model.predict(test.drop(columns="id")).clip(1000, 1e7)
    pd.DataFrame({"id": test["id"], "price": predicted.round(2)}).to_csv("submission.csv", index=False)
    print(f"wrote submission.csv with {len(test)} predictions")


if __name__ == "__main__":
    main()
