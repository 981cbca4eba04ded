"""Writes tables for agents: CSV in one way."""

import csv


def write(path, columns):
    """Write columns, by name and equally long, as CSV; None becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if cell is None else cell for cell in row)
