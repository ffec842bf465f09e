"""Programs that stand beside the service: the simulated Claude, the load tester, the prover and the audit of the ledger.

Nothing imports them but the command line. Each has a folder of its own.
"""
