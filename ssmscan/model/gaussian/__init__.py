"""The Gaussian approximation of the smoothing law of a model at given parameters, on its base noise.

fit          `fit_vectors`: from a model to gains, the value function and the log likelihood; start reading here
linear       the same of a linear Gaussian model, without a search
predictive   the same filtered forwards: how well each observation is predicted from those before it
law          `Fit`: what they return
vectors      a model as functions of vectors: which leaves of the carry and which noise are coordinates
expansion    the step and its log weight to second order around a path
backward     the backward pass: feedback, covariance of the noise, value function
search       the forward pass with a line search, and the iteration
feedback     noise as a function of standard normals by the law found, at any parameters
moments      forward covariances: means, standard deviations and draws of states and noise
algebra      products and factors of small matrices

With carry c, noise e ~ N(0, I), c' = f(c, e) and l(c, e) the log weight of the step,

    Q_t(c, e) = l_t(c, e) - |e|^2 / 2 + V_{t+1}(f_t(c, e)),     V_t(c) = log of the Gaussian integral of exp Q_t over e,

each to second order around a nominal path: differential dynamic programming, the iterated extended Kalman smoother on
noise (Jacobson & Mayne 1970; Bell 1994, *SIAM J. Optim.* 4(3); Durbin & Koopman 2012, chapter 10).  For a linear
Gaussian model one pass is exact whatever the path is; elsewhere the pass at the mode is Laplace's approximation.
"""
