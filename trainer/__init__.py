"""The trainer: from shards to checkpoints, on many GPUs (paper section 4)."""
