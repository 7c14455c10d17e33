"""The seven networks: a frozen catalogue, weights, building, fingerprints. Only `network` imports torch."""
