"""The window: what operators type, and what they are told.

``cli`` names the commands and is the one place that turns failures into a line and an exit status. Each module
beside it holds the commands of one kind. What is heavy (the database, Celery) is imported by the command that
needs it, so that ``vcc --help`` is there at once.
"""
