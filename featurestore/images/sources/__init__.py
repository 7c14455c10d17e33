"""The places radiographs come from; `registry.make_source` opens one by name."""
