"""The tests, in tiers; CONTRIBUTING says what belongs to which."""
