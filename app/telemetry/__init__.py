"""Who is told what happened: one protocol (`observer.py`, read it first), and the Prometheus metrics, which listen to it.

At an answer's end all that is known of it is one value (`ending.py`), of which the log's line is made, and its span where
spans are wanted (`tracing.py`). Imports `answer/` and `money/`, whose words its labels are.
"""
