"""The claims ledger: numbers of the lectures and papers, each with a way to check it and a verdict.

`claims.toml` is the ledger. A claim is checked by a formula over counted quantities, by a run of
ours, or, where neither can be had without data, it names the command that would settle it.
"""
