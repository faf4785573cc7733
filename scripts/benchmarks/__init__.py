"""What ``scripts/bench`` runs: how fast, how cheap, how steady, each against a bar and in one run."""
