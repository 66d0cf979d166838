"""The network of Wan-S2V (paper section 3), its encoders, its sampler, and the official checkpoint's format."""
