"""The contenders: each does the same job, which is to record an interaction durably, send it, record the answer.

``contender.py`` says what a measure asks of one. The other designs keep their interactions in one table of their own
database (``peers.py``), on the same Postgres, and their queues in the same Redis or Postgres.
"""
