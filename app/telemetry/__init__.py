"""Who is told what happened: the Prometheus metrics.

Imports `answer/` and `money/`, whose words its labels are.
"""
