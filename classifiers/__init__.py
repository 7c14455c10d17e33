"""From stored vectors to probabilities, ensembles and their statistics. Submodules are imported where they are used."""
