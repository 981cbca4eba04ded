"""The baseline: all models with the same weight. Writes weights.json."""

import numpy as np
import soup

models, pictures = soup.load_models(), soup.load_pictures()
count = len(models["bias1"])
weights = np.full((count, 3), 1 / count)

for number in range(count):
    alone = soup.mix(models, np.eye(count)[:, [number] * 3])
    print(f"model {number:2d} alone: {soup.accuracies(alone, pictures).mean():.3f}")
print(f"all with equal weights: {soup.accuracies(soup.mix(models, weights), pictures).mean():.3f}")
soup.save(weights)
print("wrote weights.json")
