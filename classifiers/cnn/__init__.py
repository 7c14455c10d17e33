"""Training the CNNs themselves, in plain torch: no Ray here, and no torch in the modules that a driver needs.

Without torch: `targets`, `hierarchy`, `recipe`, `training_set`, `records`. A worker imports the rest.
"""
