"""The ways of making a classifier of stored numbers, by the names they have in tables and on the command line."""

EMBEDDINGS, STACKING_A, STACKING_B = "embeddings", "stacking-a", "stacking-b"
APPROACHES = (EMBEDDINGS, STACKING_A, STACKING_B)
BASELINE, FINETUNE = "baseline", "finetune"
STACKER = "rf_stacking"
"""The forest that stacking B puts on top of local heads; stacking A's is the head that was asked for."""
ALL, CONCATENATED = "all", "concatenated"
TOGETHER = (ALL, CONCATENATED)
"""What stands in place of a backbone's name where one head sees several."""
