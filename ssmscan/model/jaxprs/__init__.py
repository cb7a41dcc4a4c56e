"""Jaxprs as data: JAX alone, without NumPyro and without state-space models.

dataflow       a staged function: what reaches what, and evaluation in two halves
element_reach  what reaches each element of an array, and which elements are known numbers
simplify       a jaxpr without the equations that do nothing
placeholders   shapes, and arrays that stand where a value does not matter
digest         a hash of what a jaxpr computes, the same in every process
axes           evaluate a jaxpr at one place of an axis (time, the elements of a panel)
tracked_axis   where that axis is in an array, and the window of rows that is evaluated
stepping       arithmetic with loops over that axis, one step at a time
turns          loops that read an array at the number of their step, made to read it as an input
axis_rules     what each primitive does to the axis
axis_algebra   the rules of contractions, look-ups and solves
separate       a sum over the steps of a loop, taken apart element by element
flat           a jaxpr without calls, and without loops that only read
labels         which step each element of an array depends on
label_rules    what each primitive does to these labels
label_lookups  the rules of gathers
pieces         evaluate a part of what a jaxpr computes
piece_rules    at which places of its operands each primitive reads
piece_lookups  the rules of gathers
degree         the degree of what a jaxpr computes, as a polynomial in some of its inputs
source_lines   the line of the user that an equation came from
"""
