"""Discrete states with finitely many values: which can be summed out, and the sums.

enumeration        which discrete draws can be summed out, from the data flow
conditional        start and step at given noise and given discrete values
element_chains     one chain for each element of a plate, where elements do not interact
carried_elements   what each element of the carry is computed from
memory             what the carry remembers of the draws: a finite automaton, found at trace
forward_backward   sums over the paths of a finite chain: likelihood, smoothing, a draw
"""
