"""A cumulative sum and compound interest: loops in which nothing is random.

    s_t = s_{t-1} + x_t                                          (cumulative sum)
    b_t = b_{t-1} (1 + rate) + deposit_t,  y_t ~ Normal(b_t, 1)   (compound interest, rate unknown)

`scan` computes the first as it would any recursion.  In the second the loop has observations but draws
nothing, so the only unknown is a parameter and the likelihood is exact.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def cumulative_sum(x):
    """Record the running total of x, shape (T,)."""

    def transition(total, x_t):
        total = numpyro.deterministic("total", total + x_t)
        return total, total

    scan(transition, jnp.zeros(()), x)


def compound_interest(deposits, balances=None):
    """Pay in (T,) deposits at an unknown rate; the bank reports rounded balances, (T,) or None."""
    rate = numpyro.sample("rate", dist.Beta(2.0, 38.0))

    def transition(balance, x):
        deposit, reported = x
        balance = numpyro.deterministic("balance", balance * (1 + rate) + deposit)
        numpyro.sample("reported", dist.Normal(balance, 1.0), obs=reported)
        return balance, balance

    scan(transition, jnp.zeros(()), (deposits, balances))


def main(key, quick=False):
    """Check the sum, simulate an account, estimate its rate, and return what was found."""
    sum_key, account_key, nuts_key = jax.random.split(key, 3)
    x = jnp.arange(1.0, 11.0)
    total = Predictive(cumulative_sum, num_samples=1)(sum_key, x)["total"][0]
    print(f"1 + ... + 10 = {total[-1]:.0f}")

    deposits = jnp.full(20, 10.0)
    account = Predictive(compound_interest, {"rate": jnp.array([0.05])})(account_key, deposits)
    ssm = ssmscan.trace(compound_interest, deposits, account["reported"][0])
    print(ssm)
    length = 100 if quick else 1000
    nuts = ssmscan.NUTS(num_warmup=length, num_samples=length, num_chains=2).run(nuts_key, ssm)
    print(f"the rate was 0.05, its posterior mean is {nuts.mean()['rate']:.4f}")
    return {"total": total, "balance": account["balance"][0], "rate": nuts.mean()["rate"]}


if __name__ == "__main__":
    main(jax.random.key(0))
