"""Reference: experts per category, a search for their weights, then weights per layer by gradient descent.

1. The best model of each category is an expert; so is the best model over all categories.
2. Random search for one weight per expert, on the public pictures.
3. Adam on all weights, one per model and layer, with a pull towards the searched ones.
"""

import numpy as np
import soup

SEARCH, STEPS, RATE, PULL = 600, 200, 0.01, 0.05


def search(models, pictures, experts, rng):
    """One weight per expert that does well on the pictures: shape (models,), sum 1."""
    count = len(models["bias1"])

    def value(weights):
        return soup.accuracies(soup.mix(models, np.tile(weights[:, None], 3)), pictures).mean()

    best = np.zeros(count)
    best[experts] = 1 / len(experts)
    reached = value(best)
    for attempt in range(SEARCH):
        candidate = best.copy()
        if attempt % 2:
            candidate[experts] = np.maximum(candidate[experts] + rng.normal(0, 0.08, len(experts)), 0)
        else:
            candidate[experts] = rng.dirichlet(np.full(len(experts), 0.7))
        candidate /= max(candidate.sum(), 1e-9)
        found = value(candidate)
        if found > reached:
            best, reached = candidate, found
    return best


def gradient(models, weights, pixels, labels):
    """Of the mean cross-entropy of the mixture, by weight: shape (models, 3)."""
    model = soup.mix(models, weights)
    inputs, hidden = [], pixels
    for layer in (1, 2, 3):
        inputs.append(hidden)
        hidden = hidden @ model[f"weight{layer}"] + model[f"bias{layer}"]
        if layer < 3:
            hidden = np.maximum(hidden, 0)
    error = np.exp(hidden - hidden.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    result = np.empty_like(weights)
    for layer in (3, 2, 1):
        below = inputs[layer - 1]
        by_weight = np.tensordot(models[f"weight{layer}"], below.T @ error, 2)
        result[:, layer - 1] = by_weight + models[f"bias{layer}"] @ error.sum(0)
        if layer > 1:
            error = (error @ model[f"weight{layer}"].T) * (below > 0)
    return result


def refine(models, pictures, start):
    """Weights per model and layer, from one weight per model."""
    pixels, labels, _, _ = pictures
    start = np.tile(start[:, None], 3)
    weights, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, STEPS + 1):
        slope = gradient(models, weights, pixels, labels) + PULL * (weights - start)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        weights -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        if step % 50 == 0:
            print(f"step {step}: {soup.accuracies(soup.mix(models, weights), pictures).mean():.3f}", flush=True)
    return weights


def main():
    rng = np.random.default_rng(0)
    models, pictures = soup.load_models(), soup.load_pictures()
    count = len(models["bias1"])
    alone = [soup.accuracies(soup.mix(models, np.eye(count)[:, [number] * 3]), pictures) for number in range(count)]
    alone = np.array(alone)
    experts = sorted({*alone.argmax(0).tolist(), int(alone.mean(1).argmax())})
    print(f"best alone {alone.mean(1).max():.3f}, experts {experts}", flush=True)
    searched = search(models, pictures, np.array(experts), rng)
    reached = soup.accuracies(soup.mix(models, np.tile(searched[:, None], 3)), pictures).mean()
    print(f"searched weights: {reached:.3f}", flush=True)
    soup.save(refine(models, pictures, searched))
    print("wrote weights.json")


if __name__ == "__main__":
    main()
