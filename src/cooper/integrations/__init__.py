"""Cooper's verifiers and reward models inside other trainers: TRL and veRL.

Neither library is imported here: both take plain functions.
"""
