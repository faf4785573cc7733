"""The bench: rows that are due become calls, and calls become outcomes."""
