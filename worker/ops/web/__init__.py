"""The operators' page: what happened to an interaction, what is in line, what is stuck, and why it is paused."""
