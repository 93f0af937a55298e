"""Other ways to keep to a user's limits, to compare with: one file per method."""
