"""Base noise and map of each distribution family: value = map(distribution, noise).

families    the table: which map a family has, for particles and for gradients.  A new family goes here: add its map to
            the table, and its test to the catalogue of `tests/model/catalogue.py`
quantiles   inverse distribution functions
counts      discrete families by a bounded search; support, the values of those that have finitely many
gammas      Gamma, Beta and their like by rejection
transport   smooth maps whose density is corrected, where there is no exact one
score       the gradient of a draw without a smooth map
"""
