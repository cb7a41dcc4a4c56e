"""How particles move: pure functions under jit, without input or output.

draws        base noise of a whole cloud from one key
weights      normalisation, effective sample size, compensated sums
resampling   systematic, stratified, multinomial ancestors, a particle pinned or not; `offspring` counts them
proposals    what moves and weighs a cloud: `Bootstrap`
loop         a scan whose gradient takes the memory of the root of its steps
sequential   the kernel: start, update, and the whole run as a scan of updates
summaries    what is computed from the cloud at each step
stores       what is kept of the clouds: the last, the last few, the tree of ancestors, all
pool         that tree, pruned as the filter goes
filter       `ParticleFilter`, the front object
found        `FilterResult`, what a run found; `panels` joins the elements of a panel in it
several      the same of independent loops
concerns     what speaks against a run, in sentences; `shown` prints results
genealogy    paths: ancestry and backward sampling
online       `Online`, a filter that goes on; `origin` is what it belongs to, `saved` its file
checks       settings, checked where they are made; `memory`, whether a result fits
clouds       weighted particles, and what a run keeps of them
"""
