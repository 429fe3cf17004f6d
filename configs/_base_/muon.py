"""Muon for matrices and AdamW for the rest, for the recipes of all three toolboxes.

A config adds this file to its `_base_` and replaces the recipe's optimizer:
optim_wrapper = dict(optimizer=dict(_base_.muon, _delete_=True))
"""

muon = dict(type="MuonAdamW", lr=6e-3, weight_decay=0.05)
