"""The measures: a module each, with ``measure(stand, rounds, quick)``; its docstring's first line is what is listed."""
