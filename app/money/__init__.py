"""What streams cost and what stopping them saved: ledger, entries, rates, survival curve, prices.

Imports `answer/`. Read `ledger.py` first. Rules without clock and I/O, but for the price table and `ledger_file.py`.
"""
