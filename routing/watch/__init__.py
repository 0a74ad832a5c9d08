"""How the router is: health, metrics, findings."""
