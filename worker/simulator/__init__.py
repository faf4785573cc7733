"""The Interactions API with scripted faults; imports nothing of ``worker``, or it would prove nothing."""
