"""How particles move: pure functions under jit, and the front objects that check what they are given.

Each group imports only from those above it.  A new proposal, resampling scheme, store or summary is a frozen object
with the methods of the protocol in its file.

What a filter is made of
    draws            base noise of a whole cloud from one key
    weights          normalisation, effective sample size, compensated sums
    loop             a scan whose gradient takes the memory of the root of its steps
    settings_checks  strategies checked where they are given
    offspring        how schemes count, on a CPU and on a GPU: a kernel for either goes here
    resampling       the schemes: systematic, stratified, multinomial; with a particle pinned or not
    proposals        what moves and weighs a cloud: `Bootstrap`
    proposed_laws    checks of the distributions that a user's function proposes to `Guided`
    guided           `Guided`, a proposal of the user's own
    look_ahead       `LookAhead`, the proposal that sees the whole series
    compiled         functions compiled with settings: what is static, what is an argument
    filter_step      the algorithm: start, update, and the whole run as a scan of updates; `State`, `StepInfo`
    clouds           weighted particles, and what a run keeps of them
    ancestry_tree    the tree of ancestors, pruned as the filter goes
    stores           what is kept of the clouds: the last, the last few, the tree of ancestors, all
    summaries        what is computed from the cloud at each step

A whole run
    printing         how results are shown
    filter_record    the arrays of a run
    ancestors        from how many particles a cloud descends, and what that says of the variance of Z-hat
    concerns         what speaks against a run, in sentences
    filter_result    `FilterResult`, what a run found, of one loop or several
    panels           one filter for each element of a panel, and their results joined; the model's side is
                     `model.statespace.elements`
    filter_run       the program of a run: start, steps, result
    parents          which particles may be the parents of a state, and their weights
    smoothing_draws  indices of particles drawn by weight
    smoothing_backward  one step back, among all particles or by Metropolis moves
    genealogy        paths of a stored run: ancestry and backward sampling
    estimators       `Estimator`, what samplers of the parameters need of particles, and `Replicates`

A filter that goes on, and the front
    online_origin    what a saved filter belongs to
    online_file      its file
    online           `Online`, a filter between two steps
    memory           whether a result fits
    filter           `ParticleFilter` and `log_likelihood`
    smoothing_exact  exact draws of the states, where a model has them
    smoothing_lag    moments by the particles of a later step
    smoothing        `Smoother` and its methods
    mode_search      searches for several modes of the states given all data
    choosing         `choose_proposal`, which measures whether looking ahead pays and can be trusted
    exact_likelihood  `ExactLikelihood`, an estimator without particles
    finite_states    states with finitely many values, and all their joint values
    optimal_resampling  equal particles merged, light ones thinned without bias
    conditional_step  one update of a path beside which a filter runs
    conditional      `ConditionalSMC`
    discrete_filter  `DiscreteFilter`, an estimator that tries every value of the states
    before_steps     what a filter knows before each step, for forecasts
    online_resume    `resume`, which reads a saved filter
"""
