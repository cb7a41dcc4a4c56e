"""Discrete states that are finitely many: which can be summed out, and the sums.

enumeration       which discrete draws can be summed out, from the data flow
conditional       start and step at given noise and given discrete values
element_chains    elements that do not interact, one chain for each
forward_backward  sums over the paths of a finite chain: likelihood, smoothing, a draw
"""
