"""Run heuristic.py on example formulas and print its score: python play.py [number of examples]."""

import json
import math
import os
import sys
import time
from pathlib import Path

import dpll
import heuristic

DATA = Path(os.environ.get("DATA_DIR", "/data"))


def main():
    examples = json.loads((DATA / "examples.json").read_text())
    formulas = examples["formulas"][: int(sys.argv[1]) if len(sys.argv) > 1 else None]
    logs, total, started = [], 0, time.process_time()
    for clauses in formulas:
        search = dpll.Search(examples["n"], [tuple(clause) for clause in clauses], examples["limit"])
        while search.result is None:
            literal = heuristic.choose(search.state)
            if search.state.value(literal):
                sys.exit(f"choose() returned {literal}, which is assigned already")
            search.decide(literal)
        logs.append(math.log(1 + (search.decisions if search.result != "limit" else 2 * examples["limit"])))
        total += search.decisions
    seconds = time.process_time() - started
    mean = sum(logs) / len(logs)
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / max(1, len(logs) - 1))
    error = math.exp(mean) * spread / math.sqrt(len(logs))
    print(f"{len(logs)} formulas: score {math.exp(mean):.2f} +- {error:.2f} (lower is better)")
    print(f"{total} decisions, {1e6 * seconds / max(1, total):.0f} microseconds each")


if __name__ == "__main__":
    main()
