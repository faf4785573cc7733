"""The pages: what each shows, and the changes that start from it."""
