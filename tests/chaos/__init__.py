"""The whole system under faults, with real processes; ``scripts/chaos`` runs it.

``system`` starts it, ``load`` sends the jobs, ``faults`` breaks things, ``canary`` tells when it serves again,
``judge`` holds the table against the API's book.
"""
