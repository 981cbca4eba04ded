"""Features of the simulated houses (preset mini)."""

import numpy as np
import pandas as pd

GRADES = ("none", "poor", "fair", "average", "good", "excellent")
NAMED = ("zone", "near", "lot_shape", "lot_slope", "style", "foundation", "walls", "heating", "fence", "sale_type")


def features(train, test):
    """One numeric table for both, so that the categories agree."""
    houses = pd.concat([train, test], ignore_index=True)
    out = pd.DataFrame(index=houses.index)
    for name in ("living_area", "ground_area", "lot_area"):
        out[f"log_{name}"] = np.log(houses[name])
    size = out["log_living_area"] - np.log(1300)
    quality = houses["quality"] - 5.5
    for name in (
        "condition", "quality", "bedrooms", "baths", "half_baths", "fireplaces", "porch_area", "deck_area",
        "garage_area", "centre_miles", "upper_area", "basement_area", "shed_value",
    ):  # fmt: skip
        out[name] = houses[name]
    out["luxury"] = np.maximum(houses["quality"] - 7, 0) ** 2
    out["quality_size"] = quality * size
    out["size2"], out["quality2"] = size**2, quality**2
    age = houses["year_sold"] - houses["year_built"]
    out["age"], out["capped_age"] = age, np.minimum(age, 60)
    out["renewed"] = np.clip(houses["year_renewed"] - houses["year_built"], 0, 40)
    out["cars"] = np.minimum(houses["garage_cars"], 3)
    for name in ("basement_grade", "kitchen"):
        out[name] = houses[name].map({grade: i for i, grade in enumerate(GRADES)})
    out["good_basement"] = out["basement_area"] * out["basement_grade"]
    out["finished"] = houses["basement_finished"]
    out["crowded"] = np.maximum(houses["bedrooms"] - houses["living_area"] / 450, 0)
    out["log_centre"] = np.log1p(houses["centre_miles"])
    out["townhouse_centre"] = out["log_centre"] * (houses["style"] == "townhouse")
    out["pool"], out["cooling"] = houses["pool"] == "Y", houses["air_conditioning"] == "Y"
    season = 2 * np.pi * houses["month_sold"] / 12
    out["season_sin"], out["season_cos"] = np.sin(season), np.cos(season)
    year = houses["year_sold"] - 2008
    out["year"], out["crisis"] = year, np.clip(year + 1, 0, 2)
    districts = pd.get_dummies(houses["district"], dtype=float)
    trends = districts.mul(year, axis=0).add_prefix("trend_")
    named = pd.get_dummies(houses[list(NAMED)].fillna("unknown"), dtype=float)
    table = pd.concat([out.astype(float), districts, trends, named], axis=1)
    table = table.fillna(table.median())
    return table.iloc[: len(train)], table.iloc[len(train) :]
