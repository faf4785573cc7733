"""The other side: the Interactions API over HTTP, and nothing else."""
