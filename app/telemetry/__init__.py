"""Who is told what happened: one protocol (`observer.py`, read it first), and the Prometheus metrics, which listen to it.

Imports `answer/` and `money/`, whose words its labels are.
"""
