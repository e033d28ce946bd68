"""How fast the function is, as ratios against baselines measured in the same run: `make bench`."""
