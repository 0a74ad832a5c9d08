"""A mistake that mypy finds only where it knows the types of the installed wheel."""

from allowance import allowance

allowance().spend_allowance("17")  # type: ignore[arg-type]
