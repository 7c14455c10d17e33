"""From images to stored vectors: what is pending, and the loop that reads, runs and writes one shard. Without Ray."""
