"""Who runs the shards: this process, or Ray actors. Both yield what became of each shard, in any order."""
