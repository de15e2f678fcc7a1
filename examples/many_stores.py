"""One model, two hundred stores: how sales react to the price, store by store, in one call.

Each store has two years of weekly sales, at prices that it changes now and then. Its price
elasticity, the change of log sales for a change of log price, is estimated from its own data
only. The data are simulated, so the truth is known. One store has a week without a price: it
gets no answer, and the others are left alone.
"""

import collections

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, save

import vijax

WEEKS, BROKEN, SHOWN = 104, "store 23", "store 7"


def model(log_price, holiday, log_units):
    level = numpyro.sample("level", dist.Normal(4.0, 2.0))  # log units a week at price 1
    elasticity = numpyro.sample("elasticity", dist.Normal(-2.0, 0.7))
    lift = numpyro.sample("lift", dist.Normal(0.0, 0.5))  # of weeks with a holiday
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))
    mean = level + elasticity * log_price + lift * holiday
    with numpyro.plate("weeks", len(log_units)):  # heavy tails: some weeks are out of the ordinary
        numpyro.sample("log_units", dist.StudentT(4.0, mean, noise), obs=log_units)


def simulate(number):
    """Two years of one store, and its elasticity."""
    rng = np.random.default_rng(number)
    level, elasticity = rng.normal(4.0, 0.7), rng.normal(-2.0, 0.7)
    lift, noise = rng.normal(0.3, 0.1), rng.uniform(0.15, 0.45)
    log_price = np.repeat(rng.normal(0.0, 0.12, WEEKS // 8), 8)  # kept for eight weeks
    holiday = (np.arange(WEEKS) % 26 == 25).astype(float)
    mean = level + elasticity * log_price + lift * holiday
    return (log_price, holiday, mean + noise * rng.standard_t(4.0, WEEKS)), elasticity


def draw(table, truth):
    table = table.sort_values("mean")
    true = np.array([truth[label] for label in table.index])
    low, high = table["5.5%"].to_numpy(), table["94.5%"].to_numpy()
    at, inside = np.arange(len(table)), (low <= true) & (true <= high)
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    axes.vlines(at, low, high, color=BLUE, lw=1.4, alpha=0.45, label="89 % interval")
    axes.plot(at, table["mean"], ".", ms=4, color=BLUE, label="posterior mean")
    label = f"truth, within the interval in {inside.sum()} stores"
    axes.plot(at[inside], true[inside], "D", ms=2.8, color=GREY, label=label)
    label = f"truth, outside in {np.sum(~inside)}"
    axes.plot(at[~inside], true[~inside], "D", ms=4.2, color=ORANGE, label=label)
    axes.set(title=f"Price elasticity of {len(table)} stores, each from its own weeks")
    axes.set(xlabel="stores, by estimate", ylabel="price elasticity", xlim=(-2, len(at) + 1))
    axes.set_ylim(top=high.max() + 0.6)
    axes.legend(loc="upper left", ncols=2)
    save(figure, "many_stores")


def main():
    num = 40 if options(__doc__).short else 200
    simulated = {f"store {i}": simulate(i) for i in range(num)}
    stores = {label: data for label, (data, _) in simulated.items()}
    truth = {label: elasticity for label, (_, elasticity) in simulated.items()}
    stores[BROKEN][0][50] = np.nan  # the price of a week is missing

    fits = vijax.fit_many(model, stores)
    print(f"{fits.report()}\n")
    for status, count in sorted(collections.Counter(fits.status.tolist()).items()):
        print(f"{status:14} {count:4d}")

    table = fits.summary("elasticity", num_draws=4000).droplevel("scalar")
    print(f"\n{table.head(8)}\n")
    table = table.drop(index=list(fits.errors))
    true = np.array([truth[label] for label in table.index])
    z = (true - table["mean"]) / table["sd"]  # standard normal, if the model is right
    inside = (table["5.5%"] <= true) & (true <= table["94.5%"])
    print(f"{'root mean square of errors in sds':36} {np.sqrt(np.mean(z**2)):6.2f}")
    print(f"{'share within 89 % interval':36} {inside.mean():6.2f}")
    print(f"{'sd of the estimates':36} {table['mean'].std():6.2f}   of the truth {true.std():.2f}")

    posterior = fits[SHOWN]  # an ordinary Posterior
    print(f"\n{SHOWN}: {posterior.report()}\n")
    print(posterior.summary(num_draws=8000))
    draw(table, truth)


if __name__ == "__main__":
    main()
