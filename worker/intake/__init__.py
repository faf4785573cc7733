"""The doors in: how jobs reach the record."""
