"""A simulated housing market: what decides a price is drawn from a secret world.

Every function draws one part of the houses; :func:`houses` puts them together and prices them. Numbers are US-like:
areas in square feet, prices in dollars. The code is public, the world is not: the coefficients, the districts and
the houses all depend on it.
"""

from dataclasses import dataclass

import numpy as np

DISTRICTS = 24
FIRST_YEAR, LAST_YEAR = 2006, 2011
CRISIS = 2008
NOISE = 0.06
"""Scale of the Student-t noise (5 degrees of freedom) of the logarithm of a price."""
GRADES = ("none", "poor", "fair", "average", "good", "excellent")


@dataclass(frozen=True)
class World:
    """A market's secrets.

    Attributes:
        names: of the districts, in no telling order.
        share: of all houses, by district.
        level: of the logarithm of prices, by district.
        trend: yearly growth of the level, by district.
        centre: distance to the city's centre in miles, by district.
        standing: how well built its houses are, by district.
        founded: the year its first houses were built, by district.
        spacious: logarithm of how large its lots are, by district.
        worth: coefficients of the logarithm of a price, by name.
    """

    names: np.ndarray
    share: np.ndarray
    level: np.ndarray
    trend: np.ndarray
    centre: np.ndarray
    standing: np.ndarray
    founded: np.ndarray
    spacious: np.ndarray
    worth: dict


WORTH = {
    "area": 0.56, "quality": 0.085, "luxury": 0.012, "quality_area": 0.055, "condition": 0.033, "age": -0.0034,
    "renewed": 0.0012, "lot": 0.09, "basement": 0.00017, "basement_grade": 0.15, "finished": 0.00011, "cars": 0.055,
    "fires": 0.022, "baths": 0.035, "half_baths": 0.015, "kitchen": 0.03, "cooling": 0.05, "crowded": -0.02,
    "commercial": -0.09, "dense": -0.03, "rail": -0.06, "road": -0.04, "park": 0.05, "fresh": 0.07, "forced": -0.14,
    "family": -0.08, "pool": 0.08, "porch": 0.00008, "deck": 0.0001, "brick": 0.03, "concrete": 0.03,
    "crisis": -0.05, "season": 0.015, "centre": -0.16, "centre_townhouse": 0.10, "slope": -0.03,
}  # fmt: skip
"""Typical coefficients; a world multiplies each by its own factor between 0.7 and 1.3."""


def draw_world(rng):
    """Draw a market."""
    names = [f"{first}{second}" for first in ("North", "East", "South", "West") for second in _PLACES]
    return World(
        names=rng.permutation(names)[:DISTRICTS],
        share=rng.dirichlet(np.full(DISTRICTS, 2.0)),
        level=rng.normal(0.0, 0.17, DISTRICTS),
        trend=rng.normal(0.0, 0.035, DISTRICTS),
        centre=rng.gamma(3.0, 1.5, DISTRICTS),
        standing=rng.normal(0.0, 0.8, DISTRICTS),
        founded=rng.uniform(1900, 2000, DISTRICTS),
        spacious=rng.normal(0.0, 0.3, DISTRICTS),
        worth={name: value * rng.uniform(0.7, 1.3) for name, value in WORTH.items()},
    )


_PLACES = ("field", "gate", "brook", "hill", "side", "wood", "bridge", "mill")


def houses(world, count, rng):
    """Draw houses and their prices: a dict of columns (arrays, None where unknown), and an array of dollars."""
    house = place(world, count, rng)
    build(world, house, rng)
    furnish(house, rng)
    sell(house, rng)
    price = np.exp(log_price(world, house) + NOISE * rng.standard_t(5, count))
    return publish(world, house, rng), np.round(price, -2)


def pick(rng, count, **chances):
    """Draw names by their probabilities."""
    weights = np.array(list(chances.values()))
    return rng.choice(list(chances), count, p=weights / weights.sum())


def level(values, low, high):
    """Whole numbers within limits."""
    return np.clip(np.round(values), low, high).astype(int)


def place(world, count, rng):
    """District, lot and surroundings."""
    district = rng.choice(DISTRICTS, count, p=world.share)
    lot = np.exp(rng.normal(9.1, 0.42, count) + world.spacious[district])
    return {
        "district": district,
        "lot": lot,
        "front": np.sqrt(lot) * rng.uniform(0.5, 0.95, count),
        "shape": pick(rng, count, regular=0.63, irregular=0.33, corner=0.04),
        "slope": pick(rng, count, level=0.86, gentle=0.11, steep=0.03),
        "zone": pick(rng, count, low=0.78, medium=0.15, high=0.05, commercial=0.02),
        "near": pick(rng, count, nothing=0.86, rail=0.03, road=0.06, park=0.05),
        "centre": np.maximum(0.1, world.centre[district] + rng.normal(0, 0.4, count)),
    }


def build(world, house, rng):
    """The building: year, style, quality, areas."""
    district = house["district"]
    count = len(district)
    year = level(world.founded[district] + rng.gamma(2.0, 12.0, count), 1875, FIRST_YEAR + 3)
    later = rng.integers(1950, LAST_YEAR + 1, count)
    quality = level(5.5 + world.standing[district] + (year - 1960) / 45 + rng.normal(0, 1, count), 1, 10)
    renewed = np.where(rng.random(count) < 0.45, np.maximum(year, later), year)
    style = pick(rng, count, one_storey=0.45, two_storey=0.3, attic=0.1, split=0.08, townhouse=0.07)
    ground = np.exp(rng.normal(6.95, 0.25, count) + 0.05 * (quality - 5.5))
    upper = np.where(np.isin(style, ("two_storey", "attic")), ground * rng.uniform(0.5, 1.0, count), 0.0)
    basement = np.where(rng.random(count) < 0.93, ground * rng.uniform(0.7, 1.05, count), 0.0)
    finished = np.where(rng.random(count) < 0.7, basement * rng.beta(1.2, 1.2, count), 0.0)
    house |= {
        "year": year,
        "renewed": renewed,
        "quality": quality,
        "condition": level(5.6 + (renewed - 1985) / 30 + rng.normal(0, 0.9, count), 1, 9),
        "style": style,
        "ground": ground,
        "upper": upper,
        "area": ground + upper,
        "basement": basement,
        "finished": finished,
        "basement_grade": np.where(basement > 0, level((year - 1900) / 30 + rng.normal(0, 0.6, count), 1, 5), 0),
        "foundation": pick(rng, count, slab=0.05, block=0.4, concrete=0.45, brick=0.1),
        "walls": pick(rng, count, vinyl=0.4, wood=0.2, brick=0.15, stucco=0.06, metal=0.14, cement=0.05),
    }


def furnish(house, rng):
    """What is in and around the building."""
    count, area, quality, year = len(house["year"]), house["area"], house["quality"], house["year"]
    cars = level(1.1 + 0.17 * (quality - 4) + rng.normal(0, 0.7, count), 0, 4)
    added = rng.integers(0, 15, count) * (rng.random(count) < 0.3)
    house |= {
        "baths": level(1 + (area - 900) / 800 + rng.normal(0, 0.5, count), 1, 4),
        "half_baths": rng.integers(0, 2, count),
        "bedrooms": level(1.5 + area / 750 + rng.normal(0, 0.7, count), 1, 7),
        "kitchen": level(quality / 2.2 + rng.normal(0, 0.5, count), 1, 5),
        "fires": rng.poisson(0.25 + 0.12 * np.maximum(quality - 4, 0)),
        "cars": cars,
        "garage": cars * np.maximum(150.0, rng.normal(245, 35, count)),
        "garage_year": np.minimum(year + added, LAST_YEAR),
        "heating": pick(rng, count, gas=0.9, steam=0.05, wall=0.03, floor=0.02),
        "cooling": rng.random(count) < np.where(year > 1960, 0.98, 0.8),
        "porch": rng.exponential(60, count) * (rng.random(count) < 0.55),
        "deck": rng.exponential(150, count) * (rng.random(count) < 0.5),
        "pool": rng.random(count) < 0.01,
        "fence": pick(rng, count, nothing=0.8, good=0.1, low=0.1),
        "shed": rng.exponential(500, count) * (rng.random(count) < 0.04),
    }


def sell(house, rng):
    """The sale."""
    count = len(house["year"])
    house |= {
        "sold": rng.integers(FIRST_YEAR, LAST_YEAR + 1, count),
        "month": rng.integers(1, 13, count),
        "sale": pick(rng, count, normal=0.8, fresh=0.08, forced=0.07, family=0.02, partial=0.03),
    }
    house["sold"] = np.maximum(house["sold"], house["year"])


def log_price(world, house):
    """The logarithm of the price without noise."""
    h, w, d = house, world.worth, house["district"]
    size = np.log(h["area"] / 1300)
    age = h["sold"] - h["year"]
    total = 11.75 + world.level[d] + world.trend[d] * (h["sold"] - CRISIS)
    total += w["area"] * size + w["quality"] * (h["quality"] - 5.5) + w["quality_area"] * (h["quality"] - 5.5) * size
    total += w["luxury"] * np.maximum(h["quality"] - 7, 0) ** 2 + w["condition"] * (h["condition"] - 5.5)
    total += w["age"] * np.minimum(age, 60) + w["renewed"] * np.clip(h["renewed"] - h["year"], 0, 40)
    total += w["lot"] * np.log(h["lot"] / 9000) + w["slope"] * (h["slope"] == "steep")
    total += w["basement"] * h["basement"] * (0.4 + w["basement_grade"] * h["basement_grade"])
    total += w["finished"] * h["finished"] + w["cars"] * np.minimum(h["cars"], 3) + w["fires"] * h["fires"]
    total += w["baths"] * (h["baths"] - 1) + w["half_baths"] * h["half_baths"] + w["kitchen"] * (h["kitchen"] - 3)
    total += w["crowded"] * np.maximum(h["bedrooms"] - h["area"] / 450, 0) + w["cooling"] * h["cooling"]
    total += w["porch"] * h["porch"] + w["deck"] * h["deck"] + w["pool"] * h["pool"]
    total += w["commercial"] * (h["zone"] == "commercial") + w["dense"] * (h["zone"] == "medium")
    total += sum(w[name] * (h["near"] == name) for name in ("rail", "road", "park"))
    total += sum(w[name] * (h["sale"] == name) for name in ("fresh", "forced", "family"))
    total += w["brick"] * (h["walls"] == "brick") + w["concrete"] * (h["foundation"] == "concrete")
    total += w["crisis"] * np.clip(h["sold"] - CRISIS + 1, 0, 2)
    total += w["season"] * np.sin(2 * np.pi * h["month"] / 12 - 1)
    near_centre = np.log1p(h["centre"])
    return total + w["centre"] * near_centre + w["centre_townhouse"] * near_centre * (h["style"] == "townhouse")


def publish(world, house, rng):
    """The columns as a buyer sees them: rounded, named, with gaps."""
    count = len(house["year"])
    grades = np.array(GRADES)
    yes = np.array(["N", "Y"])
    whole = {name: np.round(house[name]).astype(int) for name in _AREAS}
    table = {
        "district": world.names[house["district"]], "zone": house["zone"], "near": house["near"],
        "centre_miles": np.round(house["centre"], 1), "lot_area": whole["lot"], "lot_front": whole["front"],
        "lot_shape": house["shape"], "lot_slope": house["slope"], "style": house["style"],
        "quality": house["quality"], "condition": house["condition"], "year_built": house["year"],
        "year_renewed": house["renewed"], "foundation": house["foundation"], "walls": house["walls"],
        "ground_area": whole["ground"], "upper_area": whole["upper"], "living_area": whole["area"],
        "basement_area": whole["basement"], "basement_finished": whole["finished"],
        "basement_grade": grades[house["basement_grade"]], "bedrooms": house["bedrooms"], "baths": house["baths"],
        "half_baths": house["half_baths"], "kitchen": grades[house["kitchen"]], "fireplaces": house["fires"],
        "heating": house["heating"], "air_conditioning": yes[house["cooling"].astype(int)],
        "garage_cars": house["cars"], "garage_area": whole["garage"], "garage_year": house["garage_year"],
        "porch_area": whole["porch"], "deck_area": whole["deck"], "pool": yes[house["pool"].astype(int)],
        "fence": house["fence"], "shed_value": whole["shed"], "sale_type": house["sale"],
        "month_sold": house["month"], "year_sold": house["sold"],
    }  # fmt: skip
    gaps = {"garage_year": house["cars"] == 0}
    for name, chance in (("lot_front", 0.17), ("walls", 0.04), ("kitchen", 0.03), ("basement_finished", 0.02)):
        gaps[name] = rng.random(count) < chance
    for name, unknown in gaps.items():
        column = table[name].astype(object)
        column[unknown] = None
        table[name] = column
    return table


_AREAS = ("lot", "front", "ground", "upper", "area", "basement", "finished", "garage", "porch", "deck", "shed")
