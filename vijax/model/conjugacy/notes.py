"""What the plan of a conjugate model is made from."""

from __future__ import annotations

from collections.abc import Sequence

from vijax.model.conjugacy.values import Atom, Known, Polynomial, Term


class Notes:
    """What is noted of a model while its expectations are computed: here nothing."""

    def augmented(self, words: str) -> None:
        """Notes that the site has further variables, at their optimal distribution."""

    def quadrature(self) -> None:
        """Notes that the expectation of a site is computed by quadrature.

        Raises:
            NotConjugate: it must not be.
        """

    def needed(self, value: Polynomial | Known) -> None:
        """Notes that the mean of a value is needed."""

    def together(self, atoms: Sequence[Atom]) -> None:
        """Notes that the expectations of some atoms are multiplied with one another."""

    def multiplied(self, atoms: Sequence[Atom]) -> None:
        """Notes that some atoms are factors of one term."""

    def summed(self, term: Term) -> None:
        """Notes that the logarithm of a sum over axes of a term is needed."""

    def weighted(self, weight: Term, term: Term) -> None:
        """Notes that a term enters in a square with a weight."""

    def alone(self, value: Polynomial) -> None:
        """Notes that a value enters by its mean."""
