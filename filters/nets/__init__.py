"""Networks that no library ships, one file each."""
