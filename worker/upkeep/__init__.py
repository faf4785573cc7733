"""The night shift: what has to be done though nobody asks for it."""
