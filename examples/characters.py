"""A small Bayesian transformer that writes: character by character, and where it is unsure.

A causal transformer predicts the next character of the documentation that Python carries with it,
from few pages. An ensemble of point estimates from different starts (Lakshminarayanan, Pritzel and
Blundell, 2017), trained by AdamW in one program, predicts pages that it has not read better than
one of them. Characters are colored by the epistemic uncertainty of their prediction, the mutual
information of the character and the weights: it is large where the members disagree.
"""

from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import ORANGE, options, save
from flax import nnx

import vijax

SYMBOLS = " abcdefghijklmnopqrstuvwxyz.,:;()\"'_-*=0"
BLOCK, WIDTH, MEMBERS, DRAWS = 32, 32, 5, 25
LATIN = """Gallia est omnis divisa in partes tres, quarum unam incolunt Belgae, aliam Aquitani,
tertiam qui ipsorum lingua Celtae, nostra Galli appellantur. Hi omnes lingua, institutis, legibus
inter se differunt."""


class Transformer(nnx.Module):
    def __init__(self, rngs):
        bare = {"use_bias": False, "rngs": rngs}
        self.symbol = nnx.Embed(len(SYMBOLS), WIDTH, rngs=rngs)
        self.place = nnx.Embed(BLOCK, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, use_scale=False, **bare)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, **bare)
        self.hidden = nnx.Linear(WIDTH, 4 * WIDTH, **bare)
        self.back = nnx.Linear(4 * WIDTH, WIDTH, **bare)
        self.out = nnx.Linear(WIDTH, len(SYMBOLS), rngs=rngs)

    def __call__(self, text):
        x = self.symbol(text) + self.place(jnp.arange(BLOCK))
        x += self.attention(self.norm(x), mask=nnx.make_causal_mask(text))
        return self.out(x + self.back(nnx.relu(self.hidden(self.norm(x)))))


def model(text, following=None):
    logits = vijax.nn.network("net", Transformer)(text)
    with numpyro.plate("blocks", len(text), dim=-2), numpyro.plate("places", BLOCK):
        numpyro.sample("following", dist.Categorical(logits=logits), obs=following)
    return logits


def blocks(text):
    """Blocks of characters, and the characters that follow each."""
    codes = np.array([SYMBOLS.index(c) for c in " ".join(text.lower().split()) if c in SYMBOLS])
    codes = codes[: (len(codes) - 1) // BLOCK * BLOCK + 1]
    return codes[:-1].reshape(-1, BLOCK), codes[1:].reshape(-1, BLOCK)


def load():
    """Paragraphs of prose, each once, in random order."""
    found = dict.fromkeys(p for page in topics.values() for p in page.split("\n\n"))
    prose = [p for p in found if len(p) > 150 and p[0] != " " and "::=" not in p and "|" not in p]
    return blocks(" ".join(np.random.default_rng(0).permutation(prose)))


@jax.jit
def write(weights, block, keys):
    """Characters drawn one after the other from the mean prediction, with epistemic entropies."""

    def logits(one, block):
        run = numpyro.handlers.seed(numpyro.handlers.substitute(model, one), 0)
        return run(block[None])[0, -1]

    def next_character(block, key):
        probs = jax.nn.softmax(jax.vmap(logits, (0, None))(weights, block))
        of_mean, of_each = dist.Categorical(probs.mean(0)), dist.Categorical(probs)
        new = of_mean.sample(key)
        return jnp.append(block[1:], new), (new, of_mean.entropy() - of_each.entropy().mean())

    return jax.lax.scan(next_character, block, keys)[1]


def draw_text(ax, title, codes, shares, width=64):
    """Lines of characters, the more orange the larger their share of the largest uncertainty."""
    for i, (code, share) in enumerate(zip(codes, np.clip(shares, 0, 1), strict=True)):
        row, column = divmod(i, width)
        ax.add_patch(plt.Rectangle((column, row), 1, 1, color=ORANGE, alpha=share, lw=0))
        where = {"ha": "center", "va": "center", "family": "monospace"}
        ax.text(column + 0.5, row + 0.5, SYMBOLS[code], **where)
    ax.set(title=title, xlim=(0, width), ylim=(row + 1, 0), xticks=[], yticks=[], frame_on=False)


def main():
    train, steps = (500, 500) if options(__doc__).short else (1000, 1500)
    text, following = load()
    posterior = vijax.fit(
        model, text[:train], following[:train], batch_size={"blocks": 16}, num_steps=steps,
        guide=vijax.guides.Ensemble(MEMBERS),
        optimizer=optax.adamw(optax.cosine_decay_schedule(0.01, steps)),
    )  # fmt: skip
    print(posterior.score(text[-300:], following=following[-300:], num_draws=DRAWS))
    keys = jax.random.split(jax.random.key(0), 6 * BLOCK)
    shown = {"Written by the network": write(posterior.sample(DRAWS), text[-1], keys)}
    for title, rows in {"Not read before": text[-100:-94], "Latin": blocks(LATIN)[0][:6]}.items():
        epistemic = posterior.uncertainty(rows, num_draws=DRAWS).epistemic
        shown[title] = rows.ravel()[1:], epistemic.ravel()[:-1]  # of each, before it was read

    figure, axes = plt.subplots(3, 1, figsize=(9, 3.6), layout="constrained")
    print("\nepistemic entropy (nats)")
    for ax, (title, (codes, epistemic)) in zip(axes, shown.items(), strict=True):
        print(f"{title:26} {np.mean(epistemic):.3f}")
        draw_text(ax, title, codes, np.asarray(epistemic) / 0.3)
    print("\n" + "".join(SYMBOLS[i] for i in shown["Written by the network"][0]))
    save(figure, "characters")


if __name__ == "__main__":
    main()
