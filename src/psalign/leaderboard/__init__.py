"""The leaderboard: every method under the same prompts and attacks, each with the best of a few settings."""
