"""Compares the ledger's estimates with known truth, on simulated streams (`make audit`). Read `run.py` first."""
